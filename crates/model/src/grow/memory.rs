//! One more level of the memories of mixers.
//!
//! Reads of levels are added up with weights, and that of the new one is zero: the sum is bit for bit what it was, and the
//! first step moves the weight, so that the level itself learns from the second on. Weights that were fixed become
//! learned ones of the same size.

use super::{Origin, block_of};
use crate::config::{BlockConfig, CombineConfig, LevelConfig, MemoryConfig, MixerConfig};
use crate::model::Model;
use crate::params::Params;

/// Of a level that was added to a memory.
pub(super) struct Place {
    /// Its place in the list.
    at: usize,
    /// The levels with it.
    levels: usize,
    /// What stands before the names of the memory's parameters.
    part: &'static str,
    /// The weights of all levels.
    weights: Vec<f32>,
}

/// Puts a level into the memory of block `number` of `model`, by its period; `None` where the block has no memory.
pub(super) fn add_level(
    model: &Model,
    params: &Params<f32>,
    (number, block): (usize, &mut BlockConfig),
    period: u64,
) -> Option<Place> {
    let (memory, part) = match &mut block.mixer {
        MixerConfig::Memory(memory) => (memory, "mixer"),
        MixerConfig::Mag(mag) => (&mut mag.memory, "mixer.memory"),
        MixerConfig::Mal(mal) => (&mut mal.memory, "mixer.memory"),
        MixerConfig::Mac(mac) => (&mut mac.memory, "mixer.memory"),
        MixerConfig::Attention(_) | MixerConfig::None => return None,
    };
    let old = model.params().specs.iter().find(|s| s.name == format!("blocks.{number}.{part}.level_weights"));
    let mut weights = match old {
        Some(spec) => params.data[spec.range.clone()].to_vec(),
        None => vec![memory.combine.scale(memory.rules().len()) as f32; memory.rules().len()],
    };
    let at = insert(memory, period);
    weights.insert(at, 0.0);
    Some(Place { at, levels: weights.len(), part, weights })
}

/// Puts a level into the list, with the rule of the one that it comes to stand beside, and gives its place.
fn insert(memory: &mut MemoryConfig, period: u64) -> usize {
    let periods: Vec<u64> = memory.rules().into_iter().map(|(_, period)| period).collect();
    memory.levels.resize_with(periods.len(), LevelConfig::default);
    // Where nothing is said, periods go by the place in the list, which changes.
    for (level, period) in memory.levels.iter_mut().zip(&periods) {
        level.period = Some(*period);
    }
    let at = periods.iter().take_while(|p| **p < period).count();
    let rule = memory.levels[at.min(periods.len() - 1)].rule.clone();
    memory.levels.insert(at, LevelConfig { rule, period: Some(period) });
    memory.combine = CombineConfig::Learned;
    at
}

/// The names in memories of which each got a level.
pub(super) fn origin(name: &str, places: &[Option<Place>]) -> Origin {
    let old = || Origin::Old(name.into());
    let Some((number, rest)) = block_of(name) else { return old() };
    let Some(Some(place)) = places.get(number) else { return old() };
    let Some(rest) = rest.strip_prefix(place.part).and_then(|rest| rest.strip_prefix('.')) else { return old() };
    if rest == "level_weights" {
        return Origin::Known(place.weights.clone());
    }
    let level = rest.strip_prefix("levels.").and_then(|rest| rest.split_once('.'));
    let Some((Ok(level), rest)) = level.map(|(level, rest)| (level.parse::<usize>(), rest)) else { return old() };
    let named = |level: usize| match place.levels {
        // It was the only one.
        2 => format!("blocks.{number}.{}.{rest}", place.part),
        _ => format!("blocks.{number}.{}.levels.{level}.{rest}", place.part),
    };
    match level.cmp(&place.at) {
        std::cmp::Ordering::Less => Origin::Old(named(level)),
        std::cmp::Ordering::Equal => Origin::New(named(level.min(place.levels - 2))),
        std::cmp::Ordering::Greater => Origin::Old(named(level - 1)),
    }
}
