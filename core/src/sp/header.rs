//! The connection header: the eight bytes that each side sends first.

/// Length of the connection header in bytes.
pub const HEADER: usize = 8;

/// One side of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// REQ, which sends requests.
    Request,
    /// REP, which answers requests.
    Reply,
    /// PUSH, which sends one way.
    Push,
    /// PULL, which receives.
    Pull,
}

impl Protocol {
    /// The protocol's number in the header.
    pub const fn number(self) -> u16 {
        match self {
            Self::Request => 0x30,
            Self::Reply => 0x31,
            Self::Push => 0x50,
            Self::Pull => 0x51,
        }
    }

    /// The only protocol that the other side may speak.
    pub const fn peer(self) -> Self {
        match self {
            Self::Request => Self::Reply,
            Self::Reply => Self::Request,
            Self::Push => Self::Pull,
            Self::Pull => Self::Push,
        }
    }

    /// The header that this side sends: `00 'S' 'P' 00`, number, `00 00`.
    pub const fn header(self) -> [u8; HEADER] {
        let [high, low] = self.number().to_be_bytes();
        [0, b'S', b'P', 0, high, low, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_on_the_wire() {
        assert_eq!(Protocol::Request.header(), [0, 0x53, 0x50, 0, 0, 0x30, 0, 0]);
        assert_eq!(Protocol::Pull.header(), [0, 0x53, 0x50, 0, 0, 0x51, 0, 0]);
        for end in [Protocol::Request, Protocol::Reply, Protocol::Push, Protocol::Pull] {
            assert_eq!(end.peer().peer(), end);
        }
    }
}
