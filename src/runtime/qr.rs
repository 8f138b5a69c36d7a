//! QR codes (ISO/IEC 18004): text as a picture that a phone reads.
//!
//! Byte mode at error correction level M and versions up to [`VERSION_MAX`]: what the setup code of a device needs, and
//! no more. The picture is a PNG of one bit for each pixel, not compressed.

/// Largest version: 97 modules a side, 666 bytes.
pub const VERSION_MAX: usize = 20;
/// Light modules around the code, as the standard asks.
const QUIET: usize = 4;
/// Most pixels for each module.
const SCALE_MAX: usize = 6;

/// Error correction codewords of a block, and blocks, at level M, by version from 1.
const LEVEL_M: [(usize, usize); VERSION_MAX] = [
    (10, 1),
    (16, 1),
    (26, 1),
    (18, 2),
    (24, 2),
    (16, 4),
    (18, 4),
    (22, 4),
    (22, 5),
    (26, 5),
    (30, 5),
    (22, 8),
    (22, 9),
    (24, 9),
    (24, 10),
    (28, 10),
    (28, 11),
    (26, 13),
    (26, 14),
    (26, 16),
];

/// A square of modules, dark or light.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    version: usize,
    size: usize,
    dark: Vec<bool>,
    /// Modules that are no data: patterns by which the code is found and read.
    fixed: Vec<bool>,
}

impl Code {
    /// The code of these bytes; `None` when they are too many.
    pub fn of(bytes: &[u8]) -> Option<Code> {
        let version = (1..=VERSION_MAX).find(|version| bytes.len() <= capacity(*version))?;
        let codewords = with_correction(version, &data_codewords(version, bytes));
        let mut plain = Code::blank(version);
        plain.draw_data(&codewords);
        let masked = (0..8).map(|mask| {
            let mut code = plain.clone();
            code.mask(mask);
            code.draw_format(mask);
            code
        });
        masked.min_by_key(Code::penalty)
    }

    /// Modules along one side.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether a module is dark.
    pub fn is_dark(&self, x: usize, y: usize) -> bool {
        self.dark[y * self.size + x]
    }

    /// The picture, as large as it fits into `bytes_max`; `None` when it does not.
    pub fn png(&self, bytes_max: usize) -> Option<Vec<u8>> {
        (1..=SCALE_MAX).rev().map(|scale| self.png_at(scale)).find(|png| png.len() <= bytes_max)
    }

    fn png_at(&self, scale: usize) -> Vec<u8> {
        let side = (self.size + 2 * QUIET) * scale;
        let mut rows = Vec::with_capacity(side * (side / 8 + 2));
        for y in 0..side {
            // No filter.
            rows.push(0);
            for x in (0..side).step_by(8) {
                let light = |x: usize| x < side && !self.is_dark_at(x / scale, y / scale);
                rows.push((0..8).fold(0, |byte, bit| byte << 1 | u8::from(light(x + bit))));
            }
        }
        let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
        let side = u32::try_from(side).expect("a picture has few pixels").to_be_bytes();
        // One bit of grey.
        let header = [&side[..], &side[..], &[1, 0, 0, 0, 0]].concat();
        for (kind, content) in [(b"IHDR", header), (b"IDAT", stored(&rows)), (b"IEND", Vec::new())] {
            png.extend(u32::try_from(content.len()).expect("a chunk is short").to_be_bytes());
            let chunk = [&kind[..], &content].concat();
            png.extend(&chunk);
            png.extend(crc32(&chunk).to_be_bytes());
        }
        png
    }

    /// With the quiet zone around.
    fn is_dark_at(&self, x: usize, y: usize) -> bool {
        let inside = QUIET..QUIET + self.size;
        inside.contains(&x) && inside.contains(&y) && self.is_dark(x - QUIET, y - QUIET)
    }

    fn blank(version: usize) -> Code {
        let size = version * 4 + 17;
        let mut code = Code { version, size, dark: vec![false; size * size], fixed: vec![false; size * size] };
        for n in 0..size {
            code.fix(6, n, n % 2 == 0);
            code.fix(n, 6, n % 2 == 0);
        }
        for (x, y) in [(3, 3), (size - 4, 3), (3, size - 4)] {
            code.draw_rings(x, y, 4, |ring| ring != 2 && ring != 4);
        }
        let places = alignment(version);
        for (i, &x) in places.iter().enumerate() {
            for (j, &y) in places.iter().enumerate() {
                let last = places.len() - 1;
                if ![(0, 0), (0, last), (last, 0)].contains(&(i, j)) {
                    code.draw_rings(x, y, 2, |ring| ring != 1);
                }
            }
        }
        // Keeps the place; the bits follow with the mask.
        code.draw_format(0);
        code.draw_version();
        code
    }

    fn fix(&mut self, x: usize, y: usize, is_dark: bool) {
        self.dark[y * self.size + x] = is_dark;
        self.fixed[y * self.size + x] = true;
    }

    fn draw_rings(&mut self, x: usize, y: usize, radius: usize, is_dark: impl Fn(usize) -> bool) {
        for at_y in y.saturating_sub(radius)..=(y + radius).min(self.size - 1) {
            for at_x in x.saturating_sub(radius)..=(x + radius).min(self.size - 1) {
                self.fix(at_x, at_y, is_dark(at_x.abs_diff(x).max(at_y.abs_diff(y))));
            }
        }
    }

    /// Error correction level and mask, twice.
    fn draw_format(&mut self, mask: usize) {
        // Level M is 0.
        let data = mask as u32;
        let rest = (0..10).fold(data, |rest, _| (rest << 1) ^ ((rest >> 9) * 0x537));
        let bits = (data << 10 | rest) ^ 0x5412;
        let is_set = |n: usize| bits >> n & 1 != 0;
        let size = self.size;
        for n in 0..6 {
            self.fix(8, n, is_set(n));
        }
        self.fix(8, 7, is_set(6));
        self.fix(8, 8, is_set(7));
        self.fix(7, 8, is_set(8));
        for n in 9..15 {
            self.fix(14 - n, 8, is_set(n));
        }
        for n in 0..8 {
            self.fix(size - 1 - n, 8, is_set(n));
        }
        for n in 8..15 {
            self.fix(8, size - 15 + n, is_set(n));
        }
        self.fix(8, size - 8, true);
    }

    fn draw_version(&mut self) {
        if self.version < 7 {
            return;
        }
        let version = self.version as u32;
        let rest = (0..12).fold(version, |rest, _| (rest << 1) ^ ((rest >> 11) * 0x1f25));
        let bits = version << 12 | rest;
        for n in 0..18 {
            let (a, b) = (self.size - 11 + n % 3, n / 3);
            let is_set = bits >> n & 1 != 0;
            self.fix(a, b, is_set);
            self.fix(b, a, is_set);
        }
    }

    /// Two columns at a time from the right, up and down in turn.
    fn draw_data(&mut self, codewords: &[u8]) {
        let mut bits = codewords.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 != 0));
        let size = self.size;
        let rights = (1..size).rev().step_by(2).map(|right| if right <= 6 { right - 1 } else { right });
        for right in rights {
            let is_upward = (right + 1) & 2 == 0;
            for n in 0..size {
                let y = if is_upward { size - 1 - n } else { n };
                for x in [right, right - 1] {
                    if !self.fixed[y * size + x] {
                        // What is left over stays light.
                        self.dark[y * size + x] = bits.next().unwrap_or(false);
                    }
                }
            }
        }
    }

    fn mask(&mut self, mask: usize) {
        for y in 0..self.size {
            for x in 0..self.size {
                let turns = match mask {
                    0 => (x + y) % 2 == 0,
                    1 => y % 2 == 0,
                    2 => x % 3 == 0,
                    3 => (x + y) % 3 == 0,
                    4 => (x / 3 + y / 2) % 2 == 0,
                    5 => x * y % 2 + x * y % 3 == 0,
                    6 => (x * y % 2 + x * y % 3) % 2 == 0,
                    _ => ((x + y) % 2 + x * y % 3) % 2 == 0,
                };
                let idx = y * self.size + x;
                self.dark[idx] ^= turns && !self.fixed[idx];
            }
        }
    }

    /// How hard it is to read; the standard's four rules.
    fn penalty(&self) -> usize {
        let size = self.size;
        let row = |y: usize| (0..size).map(move |x| self.is_dark(x, y)).collect::<Vec<_>>();
        let column = |x: usize| (0..size).map(move |y| self.is_dark(x, y)).collect::<Vec<_>>();
        let lines: usize = (0..size).map(|n| line_penalty(&row(n)) + line_penalty(&column(n))).sum();
        let mut blocks = 0;
        for y in 0..size - 1 {
            for x in 0..size - 1 {
                let first = self.is_dark(x, y);
                let same = [(x + 1, y), (x, y + 1), (x + 1, y + 1)].iter().all(|&(x, y)| self.is_dark(x, y) == first);
                blocks += 3 * usize::from(same);
            }
        }
        let n_dark = self.dark.iter().filter(|dark| **dark).count();
        let off = (n_dark * 20).abs_diff(size * size * 10) / (size * size);
        lines + blocks + 10 * off
    }
}

/// Runs of one colour, and what looks like the pattern by which a code is found.
fn line_penalty(line: &[bool]) -> usize {
    const FINDER: [bool; 7] = [true, false, true, true, true, false, true];
    let runs: usize = line.chunk_by(|a, b| a == b).map(|run| if run.len() >= 5 { run.len() - 2 } else { 0 }).sum();
    let is_light = |from: usize, to: usize| to <= line.len() && line[from..to].iter().all(|dark| !dark);
    let finders = line.windows(FINDER.len()).enumerate().filter(|(_, window)| *window == FINDER);
    let finders = finders.map(|(at, _)| {
        let before = at >= 4 && is_light(at - 4, at);
        let after = is_light(at + 7, at + 11);
        40 * (usize::from(before) + usize::from(after))
    });
    runs + finders.sum::<usize>()
}

/// Codewords of a version, data and correction.
fn n_codewords(version: usize) -> usize {
    let mut modules = (16 * version + 128) * version + 64;
    if version >= 2 {
        let n = version / 7 + 2;
        modules -= (25 * n - 10) * n - 55;
        if version >= 7 {
            modules -= 36;
        }
    }
    modules / 8
}

fn n_data(version: usize) -> usize {
    let (correction, blocks) = LEVEL_M[version - 1];
    n_codewords(version) - correction * blocks
}

/// Bits of the count of bytes.
fn count_bits(version: usize) -> usize {
    if version < 10 { 8 } else { 16 }
}

/// Bytes that a version holds.
fn capacity(version: usize) -> usize {
    (n_data(version) * 8 - 4 - count_bits(version)) / 8
}

fn alignment(version: usize) -> Vec<usize> {
    if version == 1 {
        return Vec::new();
    }
    let n = version / 7 + 2;
    let step = (version * 8 + n * 3 + 5) / (n * 4 - 4) * 2;
    let mut places: Vec<usize> = (0..n - 1).map(|k| version * 4 + 10 - k * step).collect();
    places.push(6);
    places.reverse();
    places
}

fn data_codewords(version: usize, bytes: &[u8]) -> Vec<u8> {
    let mut bits: Vec<bool> = Vec::new();
    let mut push = |value: usize, n: usize| bits.extend((0..n).rev().map(|bit| value >> bit & 1 != 0));
    // Byte mode.
    push(4, 4);
    push(bytes.len(), count_bits(version));
    bytes.iter().for_each(|byte| push(usize::from(*byte), 8));
    let room = n_data(version) * 8;
    bits.resize((bits.len() + 4).min(room).next_multiple_of(8), false);
    let mut out: Vec<u8> =
        bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect();
    out.extend([0xec, 0x11].into_iter().cycle().take(n_data(version) - out.len()));
    out
}

/// Cuts the data into blocks, adds what corrects each, and shuffles them together.
fn with_correction(version: usize, data: &[u8]) -> Vec<u8> {
    let (n_correction, n_blocks) = LEVEL_M[version - 1];
    let total = n_codewords(version);
    let n_short = n_blocks - total % n_blocks;
    let short = total / n_blocks - n_correction;
    let divisor = divisor(n_correction);
    let mut rest = data;
    let mut blocks: Vec<(&[u8], Vec<u8>)> = Vec::new();
    for n in 0..n_blocks {
        let (block, after) = rest.split_at(short + usize::from(n >= n_short));
        rest = after;
        blocks.push((block, remainder(block, &divisor)));
    }
    let mut out = Vec::with_capacity(total);
    for n in 0..=short {
        out.extend(blocks.iter().filter_map(|(block, _)| block.get(n)));
    }
    for n in 0..n_correction {
        out.extend(blocks.iter().map(|(_, correction)| correction[n]));
    }
    out
}

/// Multiplies in the field of 256 elements that the standard uses.
fn times(a: u8, b: u8) -> u8 {
    (0..8).rev().fold(0, |product: u8, bit| {
        let doubled = (product << 1) ^ ((product >> 7) * 0x1d);
        doubled ^ (((b >> bit) & 1) * a)
    })
}

fn divisor(degree: usize) -> Vec<u8> {
    let mut out = vec![0; degree];
    out[degree - 1] = 1;
    let mut root = 1;
    for _ in 0..degree {
        for n in 0..degree {
            out[n] = times(out[n], root);
            if n + 1 < degree {
                out[n] ^= out[n + 1];
            }
        }
        root = times(root, 2);
    }
    out
}

fn remainder(data: &[u8], divisor: &[u8]) -> Vec<u8> {
    let mut out = vec![0; divisor.len()];
    for byte in data {
        let factor = byte ^ out.remove(0);
        out.push(0);
        for (value, term) in out.iter_mut().zip(divisor) {
            *value ^= times(*term, factor);
        }
    }
    out
}

/// A zlib stream (RFC 1950) that says what it holds as it is.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let mut blocks = bytes.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        out.push(u8::from(blocks.peek().is_none()));
        let len = u16::try_from(block.len()).expect("a block is at most this long");
        out.extend(len.to_le_bytes());
        out.extend((!len).to_le_bytes());
        out.extend(block);
    }
    let (low, high) = bytes.iter().fold((1u32, 0u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65521;
        (low, (high + low) % 65521)
    });
    out.extend((high << 16 | low).to_be_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_hold_what_the_standard_says() {
        for (version, bytes) in [(1, 14), (2, 26), (6, 106), (7, 122), (9, 180), (10, 213), (15, 412), (20, 666)] {
            assert_eq!(capacity(version), bytes, "version {version}");
        }
        assert_eq!(Code::of(&[b'x'; 666]).unwrap().size(), 97);
        assert_eq!(Code::of(&[b'x'; 667]), None);
        assert_eq!(Code::of(b"").unwrap().size(), 21);
    }

    #[test]
    fn correction_divides_by_the_standards_polynomials() {
        // Annex I of the standard: "01234567" as numbers, version 1-M.
        let data = [16, 32, 12, 86, 97, 128, 236, 17, 236, 17, 236, 17, 236, 17, 236, 17];
        assert_eq!(remainder(&data, &divisor(10)), [165, 36, 212, 193, 237, 54, 199, 135, 44, 85]);
        assert_eq!(alignment(2), [6, 18]);
        assert_eq!(alignment(7), [6, 22, 38]);
        assert_eq!(alignment(20), [6, 34, 62, 90]);
    }

    #[test]
    fn codes_are_drawn_as_another_encoder_draws_them() {
        // The modules in rows, as `0` and `1`; the sums are those of the `qrcode` package of the released gateway.
        let drawn = |text: &str| {
            let code = Code::of(text.as_bytes()).unwrap();
            let places = (0..code.size()).flat_map(|y| (0..code.size()).map(move |x| (x, y)));
            let rows: Vec<u8> = places.map(|(x, y)| b'0' + u8::from(code.is_dark(x, y))).collect();
            (code.size(), crc32(&rows))
        };
        assert_eq!(drawn("HELLO"), (21, 0xf5fdb614));
        assert_eq!(drawn(&"abcdefghij".repeat(20)), (57, 0x791729a4));
        assert_eq!(drawn(&"x0_".repeat(150)), (81, 0x7e908fdf));
    }

    #[test]
    fn a_picture_is_as_large_as_there_is_room() {
        assert_eq!((crc32(b"123456789"), crc32(b"IEND")), (0xcbf4_3926, 0xae42_6082));
        assert_eq!(stored(b"ab"), [0x78, 1, 1, 2, 0, 0xfd, 0xff, b'a', b'b', 1, 0x26, 0, 0xc4]);
        let code = Code::of(b"hello").unwrap();
        let png = code.png(usize::MAX).unwrap();
        assert_eq!(png[16..24], [0, 0, 0, 174, 0, 0, 0, 174], "29 modules of 6 pixels");
        let smaller = code.png(png.len() - 1).unwrap();
        assert_eq!(smaller[16..20], [0, 0, 0, 145]);
        assert_eq!(code.png(10), None);
    }
}
