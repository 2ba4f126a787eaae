//! What a call may write: said with every call, never a hidden mode.

use serde::{Deserialize, Serialize};

/// Parts of a model: blocks, and levels of their memories and of their continuum memories.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// These blocks, from 0; all of them where absent.
    pub blocks: Option<Vec<usize>>,
    /// These levels of each block, from 0, fastest first; all of them where absent.
    pub levels: Option<Vec<usize>>,
}

impl Parts {
    /// All of a model.
    pub fn all() -> Self {
        Self::default()
    }
    /// These blocks with all their levels.
    pub fn blocks(list: impl Into<Vec<usize>>) -> Self {
        Self { blocks: Some(list.into()), levels: None }
    }
    /// These levels in all blocks.
    pub fn levels(list: impl Into<Vec<usize>>) -> Self {
        Self { blocks: None, levels: Some(list.into()) }
    }
    /// Whether a level of a block is one of them.
    pub fn contains(&self, block: usize, level: usize) -> bool {
        let holds = |list: &Option<Vec<usize>>, i| list.as_ref().is_none_or(|list| list.contains(&i));
        holds(&self.blocks, block) && holds(&self.levels, level)
    }
}

/// What a call may write into the state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Everything advances and stays.
    #[default]
    Learn,
    /// As `Learn`, but only these parts write.
    LearnOnly(Parts),
    /// The call works on a copy: the caller's state is the same bits afterwards. Continuum memories stand still.
    Read,
    /// These parts read but never write; windows and convolutions run on. The ablation.
    Frozen(Parts),
}

impl Access {
    /// Whether a level of a memory of a block writes during the call.
    pub fn writes(&self, block: usize, level: usize) -> bool {
        match self {
            Access::Learn | Access::Read => true,
            Access::LearnOnly(parts) => parts.contains(block, level),
            Access::Frozen(parts) => !parts.contains(block, level),
        }
    }
}
