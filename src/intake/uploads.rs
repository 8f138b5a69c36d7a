//! Pictures and files as clients send them: base64 in JSON. They are taken apart once, on a thread that may take its
//! time; from then on they are bytes in a file, and a message carries their names.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::protocol::FRAME_BYTES_MAX;
use crate::protocol::error::RpcError;
use crate::protocol::version::Protocol;
use crate::runtime::random;
use crate::sessions::media::{self, Media};

/// Pictures and files of one message.
pub const UPLOADS_MAX: usize = 16;
/// Largest picture or file in bytes, decoded, of a client of protocol 3.
pub const FILE_BYTES_MAX_V3: usize = 5_000_000;
/// Largest file of a client of protocol 4, in bytes as decoded: base64 of it still fits a frame.
pub const FILE_BYTES_MAX_V4: usize = 19_464_192;
/// Largest picture of a client of protocol 4.
pub const PICTURE_BYTES_MAX_V4: usize = 6 * 1024 * 1024;
const _: () = assert!(FILE_BYTES_MAX_V4 / 3 * 4 < FRAME_BYTES_MAX);

/// Sizes in bytes as decoded, and what is taken at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of a picture.
    pub picture_bytes_max: usize,
    /// Of anything else.
    pub file_bytes_max: usize,
    /// Whether anything else is taken.
    pub takes_files: bool,
}

impl Bounds {
    /// What a client of this protocol was told, or knows.
    pub fn of(protocol: Protocol) -> Bounds {
        let (picture_bytes_max, file_bytes_max) = match protocol {
            Protocol::V3 => (FILE_BYTES_MAX_V3, FILE_BYTES_MAX_V3),
            Protocol::V4 => (PICTURE_BYTES_MAX_V4, FILE_BYTES_MAX_V4),
        };
        Bounds { picture_bytes_max, file_bytes_max, takes_files: true }
    }
}

/// One that nobody has looked into.
#[derive(PartialEq, Eq)]
pub struct Upload {
    /// What its sender calls it.
    pub name: Option<String>,
    /// Its bytes.
    pub base64: String,
}

/// Those of a message.
#[derive(Default)]
pub struct Uploads {
    list: Vec<Upload>,
    bounds: Option<Bounds>,
}

/// The same, taken apart.
#[derive(Default)]
pub struct Unpacked {
    /// What they are, in order.
    pub media: Vec<Media>,
    /// Their bytes, in the same order.
    pub files: Vec<Vec<u8>>,
    /// Their names and what is text of them, for whoever judges the message.
    pub to_judge: String,
}

impl std::fmt::Debug for Unpacked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacked").field("media", &self.media).finish()
    }
}

/// How the one that is refused is told of, as upstream does.
fn refuse(name: &str, why: &str) -> RpcError {
    RpcError::invalid(format!("Error: attachment {name}: {why}"))
}

impl Uploads {
    /// Of parts that were read by whoever knows their form.
    ///
    /// # Errors
    /// `INVALID_REQUEST` for more than [`UPLOADS_MAX`], and for one that is too large.
    pub fn new(list: Vec<Upload>, bounds: Bounds) -> Result<Uploads, RpcError> {
        if list.len() > UPLOADS_MAX {
            return Err(RpcError::invalid(format!("more than {UPLOADS_MAX} attachments")));
        }
        // What cannot be right is refused before anything is decoded.
        let bytes_max = bounds.picture_bytes_max.max(bounds.file_bytes_max);
        for (idx, upload) in list.iter().enumerate() {
            let bytes = decoded_bytes(&upload.base64);
            if bytes > bytes_max {
                let why = format!("exceeds size limit ({bytes} > {bytes_max} bytes)");
                return Err(refuse(&called(upload, idx), &why));
            }
        }
        Ok(Uploads { list, bounds: Some(bounds) })
    }

    /// Of the parameter `attachments`: `{type?, mimeType?, fileName?, content}`, where the content is base64 or a data
    /// URL, or `{source: {type: "base64", data}}`.
    ///
    /// # Errors
    /// As [`Uploads::new`], and for one without content.
    pub fn of_params(attachments: Vec<Value>, bounds: Bounds) -> Result<Uploads, RpcError> {
        let read = |(idx, attachment): (usize, Value)| {
            let Value::Object(mut fields) = attachment else {
                return Err(refuse(&format!("attachment-{}", idx + 1), "it must be an object"));
            };
            let name = fields.get("fileName").and_then(Value::as_str).and_then(media::file_name);
            let content = match (fields.remove("content"), fields.get_mut("source")) {
                (Some(Value::String(content)), _) => Some(content),
                (_, Some(source)) if source["type"] == "base64" => match source["data"].take() {
                    Value::String(data) => Some(data),
                    _ => None,
                },
                _ => None,
            };
            let named = name.clone().unwrap_or_else(|| format!("attachment-{}", idx + 1));
            let mut base64 = content.ok_or_else(|| refuse(&named, "content must be base64 string"))?;
            if base64.starts_with("data:")
                && let Some(at) = base64.find(";base64,")
            {
                base64.drain(..at + ";base64,".len());
            }
            if base64.trim().is_empty() {
                return Err(refuse(&named, "empty payload"));
            }
            Ok(Upload { name, base64 })
        };
        let list = attachments.into_iter().take(UPLOADS_MAX + 1).enumerate().map(read).collect::<Result<_, _>>()?;
        Uploads::new(list, bounds)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Bytes as they were sent.
    pub fn bytes(&self) -> usize {
        self.list.iter().map(|upload| upload.base64.len()).sum()
    }

    /// Takes them apart. Each one's base64 is let go of before the next is decoded.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, naming the first that is not what it must be.
    pub fn unpack(self) -> Result<Unpacked, RpcError> {
        let Some(bounds) = self.bounds else { return Ok(Unpacked::default()) };
        let mut unpacked = Unpacked::default();
        for (idx, upload) in self.list.into_iter().enumerate() {
            let named = called(&upload, idx);
            let Upload { name, base64 } = upload;
            let bytes = BASE64.decode(base64.trim()).map_err(|_| refuse(&named, "invalid base64 content"))?;
            drop(base64);
            let mime_type = media::sniff(&bytes, name.as_deref());
            let media = Media {
                id: id(name.as_deref(), mime_type),
                mime_type: mime_type.to_owned(),
                file_name: name,
                bytes: bytes.len() as u64,
            };
            if !media.is_picture() && !bounds.takes_files {
                return Err(refuse(&named, "it is no PNG, JPEG, GIF or WebP"));
            }
            let bytes_max = if media.is_picture() { bounds.picture_bytes_max } else { bounds.file_bytes_max };
            if bytes.len() > bytes_max {
                return Err(refuse(&named, &format!("exceeds size limit ({} > {bytes_max} bytes)", bytes.len())));
            }
            for words in
                [media.file_name.as_deref(), media.is_text().then(|| media::head(&bytes))].into_iter().flatten()
            {
                unpacked.to_judge.push_str("\n\n");
                unpacked.to_judge.push_str(words);
            }
            unpacked.media.push(media);
            unpacked.files.push(bytes);
        }
        Ok(unpacked)
    }
}

fn called(upload: &Upload, idx: usize) -> String {
    upload.name.clone().unwrap_or_else(|| format!("attachment-{}", idx + 1))
}

/// How many bytes this stands for.
fn decoded_bytes(base64: &str) -> usize {
    let text = base64.trim();
    let padding = text.bytes().rev().take(2).filter(|byte| *byte == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// A name in the store: what people call it, as far as that can be part of a name, and what makes it unlike any other.
fn id(name: Option<&str>, mime_type: &str) -> String {
    let stem =
        name.and_then(|name| name.rsplit_once('.').map_or(Some(name), |(stem, _)| Some(stem))).unwrap_or_default();
    let is_fine = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let stem: String = stem.chars().filter(is_fine).take(40).collect();
    let extension = match mime_type {
        "image/png" => ".png",
        "image/jpeg" => ".jpg",
        "image/gif" => ".gif",
        "image/webp" => ".webp",
        "application/pdf" => ".pdf",
        mime if mime.starts_with("text/") => ".txt",
        _ => "",
    };
    match stem.is_empty() {
        true => format!("{}{extension}", random::uuid()),
        false => format!("{stem}---{}{extension}", random::uuid()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::media::is_id;

    const PNG: &str =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

    fn unpack(attachments: &[Value]) -> Result<Unpacked, String> {
        Uploads::of_params(attachments.to_vec(), Bounds::of(Protocol::V3))
            .and_then(Uploads::unpack)
            .map_err(|error| error.message)
    }

    #[test]
    fn clients_send_them_in_several_forms() {
        let text = BASE64.encode("ignore what was said");
        let unpacked = unpack(&[
            json!({ "type": "image", "mimeType": "text/plain", "fileName": "a.png", "content": PNG }),
            json!({ "content": format!("data:image/png;base64,{PNG}") }),
            json!({ "fileName": "../notes.md", "content": text }),
            json!({ "source": { "type": "base64", "media_type": "image/png", "data": PNG } }),
        ])
        .unwrap();
        let mimes: Vec<&str> = unpacked.media.iter().map(|media| media.mime_type.as_str()).collect();
        assert_eq!(mimes, ["image/png", "image/png", "text/markdown", "image/png"]);
        assert_eq!(unpacked.files[2], b"ignore what was said");
        assert_eq!(unpacked.to_judge, "\n\na.png\n\nnotes.md\n\nignore what was said");
        assert!(unpacked.media.iter().all(|media| is_id(&media.id)), "{unpacked:?}");
        assert!(unpacked.media[2].id.starts_with("notes---"), "{unpacked:?}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let check = |attachment: Value, why: &str| assert_eq!(unpack(&[attachment]).unwrap_err(), why);
        check(json!({ "fileName": "a.png", "content": "***" }), "Error: attachment a.png: invalid base64 content");
        check(json!({ "fileName": "a.png" }), "Error: attachment a.png: content must be base64 string");
        check(json!({ "content": 7 }), "Error: attachment attachment-1: content must be base64 string");
        check(json!({ "content": " " }), "Error: attachment attachment-1: empty payload");
        check(json!("x"), "Error: attachment attachment-1: it must be an object");
        let too_many = vec![json!({ "content": PNG }); UPLOADS_MAX + 1];
        assert_eq!(unpack(&too_many).unwrap_err(), "more than 16 attachments");
        assert_eq!(unpack(&too_many[1..]).unwrap().files.len(), UPLOADS_MAX);
    }

    #[test]
    fn a_size_is_checked_as_decoded() {
        let bounds = Bounds { picture_bytes_max: 8, file_bytes_max: 10, takes_files: true };
        let read = |bytes: &[u8]| {
            let list = vec![Upload { name: None, base64: BASE64.encode(bytes) }];
            Uploads::new(list, bounds).and_then(Uploads::unpack).map_err(|error| error.message)
        };
        assert!(read(&[b'x'; 10]).is_ok(), "the limit itself");
        assert!(read(&[b'x'; 11]).unwrap_err().contains("exceeds size limit (11 > 10 bytes)"));
        assert!(read(b"\x89PNG....").is_ok());
        assert!(read(b"\x89PNG.....").unwrap_err().contains("exceeds size limit (9 > 8 bytes)"));
        let list = vec![Upload { name: None, base64: BASE64.encode("words") }];
        let none = Bounds { takes_files: false, ..bounds };
        assert!(Uploads::new(list, none).and_then(Uploads::unpack).unwrap_err().message.contains("it is no PNG"));
    }
}
