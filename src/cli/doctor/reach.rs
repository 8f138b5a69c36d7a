//! The gateway from outside: whether it answers, and whose the port is.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::check::Check;
use super::state::Holder;
use crate::cli::CliError;
use crate::cli::client::{Client, ClientError, Target};
use crate::protocol::scope::Scope;

/// What came of trying to speak to the gateway.
pub enum Reached {
    /// It answered.
    Yes {
        /// Where.
        url: String,
        /// Its version.
        version: String,
        /// The protocol agreed on.
        protocol: i64,
    },
    /// It did not.
    No(CliError),
}

/// Tries.
pub fn reach(target: Result<Target, CliError>) -> Reached {
    let connected = target.and_then(|target| Ok(Client::connect(&target, &[Scope::Read])?));
    match connected {
        Err(error) => Reached::No(error),
        Ok(client) => {
            let hello = client.hello();
            let reached = Reached::Yes {
                url: client.url().to_owned(),
                version: hello.server.version.clone(),
                protocol: hello.protocol,
            };
            client.close();
            reached
        }
    }
}

/// `gateway.reachable`: whether it answers and lets us in.
pub fn reachable(reached: &Reached, holder: Holder) -> Check {
    const ID: &str = "gateway.reachable";
    match reached {
        Reached::Yes { url, version, protocol } => {
            Check::pass(ID, format!("{version} answers on {url} with protocol {protocol}"))
        }
        Reached::No(CliError::Client(ClientError::Connect { url, .. })) if holder == Holder::Nobody => {
            Check::warn(ID, format!("no gateway runs on {url}")).detail("start one with `openclaw-rs gateway run`")
        }
        Reached::No(error) => {
            let check = Check::fail(ID, error.to_string());
            match error.hint() {
                Some(hint) => check.detail(hint),
                None => check,
            }
        }
    }
}

/// `gateway.port`: whether a gateway could listen on `address`, or does.
pub fn port(address: SocketAddr, reached: &Reached, holder: Holder) -> Check {
    const ID: &str = "gateway.port";
    if matches!(reached, Reached::Yes { .. }) {
        return Check::pass(ID, "the gateway listens");
    }
    match TcpListener::bind(address) {
        Ok(_) => Check::pass(ID, format!("port {} is free", address.port())),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match holder {
            Holder::Process(_) => Check::warn(ID, format!("port {} is taken, perhaps by the gateway", address.port()))
                .detail("a gateway holds the state directory and did not answer here"),
            Holder::Nobody | Holder::Unknown => {
                Check::fail(ID, format!("port {} is in use by another program", address.port()))
                    .detail("stop it, or choose another port with gateway.port or --port")
            }
        },
        Err(error) => Check::fail(ID, format!("{address} cannot be listened on")).detail(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    fn nobody_there() -> Reached {
        let source = io::Error::from(io::ErrorKind::ConnectionRefused);
        Reached::No(CliError::Client(ClientError::Connect { url: "ws://127.0.0.1:1".to_owned(), source }))
    }

    #[test]
    fn a_gateway_that_is_not_started_is_no_failure_and_one_that_does_not_answer_is() {
        assert_eq!(reachable(&nobody_there(), Holder::Nobody).status, Status::Warn);
        assert_eq!(reachable(&nobody_there(), Holder::Process(Some(1))).status, Status::Fail);
        let yes = Reached::Yes { url: "ws://x".to_owned(), version: "1".to_owned(), protocol: 4 };
        assert_eq!(reachable(&yes, Holder::Process(None)).message, "1 answers on ws://x with protocol 4");
    }

    #[test]
    fn tells_a_free_port_from_a_taken_one() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(port(address, &nobody_there(), Holder::Nobody).status, Status::Fail);
        assert_eq!(port(address, &nobody_there(), Holder::Process(None)).status, Status::Warn);
        drop(taken);
        assert_eq!(port(address, &nobody_there(), Holder::Nobody).status, Status::Pass);
    }
}
