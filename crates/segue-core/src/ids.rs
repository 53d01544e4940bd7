//! Names of the things the core decides about. All are plain numbers: strings, PIDs and
//! descriptors belong to the shell.

use std::fmt;

use crate::datum::{Datum, Portable, Unreadable, portable_record};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl Portable for $name {
            fn save(&self) -> Datum {
                self.0.save()
            }

            fn load(datum: &Datum) -> Result<Self, Unreadable> {
                Portable::load(datum).map(Self)
            }
        }
    };
}

id!(
    /// A stable place 0..N-1 for one worker. During a reload an old and a new worker hold it at once.
    SlotId(u32), "slot "
);
id!(
    /// One process, for its whole life. Never reused; workers see it as `cluster.worker.id`.
    WorkerId(u32), "worker "
);
id!(
    /// The reload that a worker belongs to. The first start is generation 1.
    Generation(u32), "generation "
);
id!(
    /// A place the app listens at (family, host, port, or a path). The shell interns them and
    /// never gives the same number to another place.
    AddressId(u32), "address "
);
id!(
    /// Position of a socket within its address's group: the number that the steering program returns.
    SocketIndex(u16), "#"
);
id!(
    /// One caller's request; its outcome is reported under this number.
    RequestId(u64), "request "
);
id!(
    /// One question of a worker for a listening socket that has not been answered yet.
    AskId(u64), "ask "
);
id!(
    /// Counts reloads from 1, failed and superseded ones included.
    ReloadId(u32), "reload "
);

/// One listening socket of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketRef {
    pub address: AddressId,
    pub index: SocketIndex,
}

portable_record!(SocketRef { address, index });

impl fmt::Display for SocketRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.address, self.index)
    }
}
