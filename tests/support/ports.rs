//! Ports for programs that cannot choose one themselves.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port of 127.0.0.1 that is reserved until this is dropped.
///
/// The socket is bound and does not listen: connections to it are refused, the
/// kernel does not choose the port for other sockets, and a program that is
/// told to listen on it can (as long as it sets `SO_REUSEADDR`, which servers do).
pub struct Port {
    pub address: SocketAddr,
    _socket: Socket,
}

impl Port {
    pub fn reserve() -> Port {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("an option");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        let address = socket.local_addr().expect("an address").as_socket().expect("IPv4");
        Port { address, _socket: socket }
    }

    pub fn number(&self) -> u16 {
        self.address.port()
    }
}
