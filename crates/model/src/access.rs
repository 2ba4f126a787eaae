//! What a call may write: said with every call, never a hidden mode.

/// A set of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// All of them.
    All,
    /// These, from 0.
    Only(Vec<usize>),
}

impl Blocks {
    /// Whether block `i` is one of them.
    pub fn contains(&self, i: usize) -> bool {
        match self {
            Blocks::All => true,
            Blocks::Only(list) => list.contains(&i),
        }
    }
}

/// What a call may write into the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything advances and stays.
    Learn,
    /// As `Learn`, but only the memories of these blocks write.
    LearnOnly(Blocks),
    /// The call works on a copy: the caller's state is the same bits afterwards.
    Read,
    /// The memories of these blocks read but never write; windows and convolutions run on. The ablation.
    Frozen(Blocks),
}

impl Access {
    /// Whether the memory of block `i` writes during the call.
    pub fn writes(&self, i: usize) -> bool {
        match self {
            Access::Learn | Access::Read => true,
            Access::LearnOnly(blocks) => blocks.contains(i),
            Access::Frozen(blocks) => !blocks.contains(i),
        }
    }
}
