//! What becomes of a frame in the steering program: `enum steer_outcome` of steer.h, in Rust.

/// What an outcome means for the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It went on to the kernel, untouched.
    Pass,
    /// It went to a worker.
    Steer,
    /// It was dropped.
    Drop,
}

macro_rules! steer_outcomes {
    ($($(#[doc = $doc:literal])+ $variant:ident = ($name:literal, $verdict:ident),)+) => {
        /// Every way out of the steering program, in the order of their counters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum SteerOutcome {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl SteerOutcome {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name that metrics and `spillway drops` show.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for a person.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+),)+ }
            }

            /// What became of the frame.
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$variant => Verdict::$verdict,)+ }
            }
        }
    };
}

include!(concat!(env!("OUT_DIR"), "/outcomes.rs"));

/// How many outcomes there are.
pub const OUTCOMES: usize = SteerOutcome::ALL.len();

/// How often an outcome came up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Frames.
    pub packets: u64,
    /// Their bytes, as received.
    pub bytes: u64,
}
