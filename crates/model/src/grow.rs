//! Growing a trained model: one more block, or one more level of its memories.
//!
//! What is new adds nothing at first, since what leads from it starts at zero: matrices to the stream, or the weight of a
//! memory's level. Where norms stand before their parts, and everywhere for a memory's level, the grown model says bit
//! for bit what the old one says.

mod memory;

use crate::config::{Arrangement, BlockConfig, ChannelConfig, CmsConfig, CmsLevel, ModelConfig};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::params::{ParamSpec, Params};

/// How a model grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// One more block behind this one, counted from 0, of the same kind.
    Block(usize),
    /// In every block with a channel, one more level that changes once in so many tokens. A perceptron becomes a level
    /// that stands still first.
    Level(u64),
    /// In every mixer with a memory, one more level of it that changes once in so many tokens, under the rule of the level
    /// that it comes to stand beside. A memory without levels becomes one of two.
    MemoryLevel(u64),
}

/// What the new part starts from, but for what leads from it, which starts at zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrowthStart {
    /// New numbers, drawn under this seed.
    Random(u64),
    /// Those of the block, or of the level that comes to stand beside it.
    Cloned,
}

/// The grown model and its weights.
///
/// # Errors
/// [`Error::Config`] for a block that is not there, or where no level can be added; [`Error::Core`] where a rule takes no
/// such period.
pub fn grow(model: &Model, params: &Params<f32>, growth: Growth, start: GrowthStart) -> Result<(Model, Params<f32>)> {
    let (config, origin) = planned(model, params, growth)?;
    let grown = Model::new(&config)?;
    let seed = if let GrowthStart::Random(seed) = start { seed } else { 0 };
    let mut data: Params<f32> = grown.params().init(seed);
    for spec in &grown.params().specs {
        let own = &mut data.data[spec.range.clone()];
        let (old, new) = match origin(&spec.name) {
            Origin::Old(name) => (Some(name), false),
            Origin::New(beside) => (Some(beside).filter(|_| start == GrowthStart::Cloned), true),
            Origin::Known(values) => {
                own.copy_from_slice(&values);
                continue;
            }
        };
        let found = old.and_then(|name| model.params().specs.iter().find(|s| s.name == name));
        match found {
            _ if new && leads_to_stream(spec) => own.fill(0.0),
            Some(from) if spec.shape == from.shape => own.copy_from_slice(&params.data[from.range.clone()]),
            // Weights of levels that are added up: one more.
            Some(from) => {
                let at = added_level(&origin, spec, own.len());
                let values = params.data[from.range.clone()].to_vec();
                let old = own.iter_mut().enumerate().filter(|(i, _)| *i != at).map(|(_, x)| x);
                old.zip(values).for_each(|(x, v)| *x = v);
            }
            None => {}
        }
    }
    Ok((grown, data))
}

/// Where each tensor of the grown model comes from, by its name.
type Origins = Box<dyn Fn(&str) -> Origin>;

/// The grown model's configuration, and where its tensors come from.
fn planned(model: &Model, params: &Params<f32>, growth: Growth) -> Result<(ModelConfig, Origins)> {
    let mut config = ModelConfig { blocks: model.config().expanded(), ..model.config().clone() };
    let origin: Origins = match growth {
        Growth::Block(behind) => {
            let Some(block) = config.blocks.get(behind).cloned() else {
                let reason = format!("there is no block {behind}, the model has {}", config.blocks.len());
                return Err(Error::config("blocks", reason));
            };
            config.blocks.insert(behind + 1, block);
            Box::new(move |name| behind_block(name, behind))
        }
        Growth::Level(period) => {
            let context = config.context as u64;
            let places: Vec<Option<Place>> =
                config.blocks.iter_mut().map(|block| add_level(block, period, context)).collect::<Result<_>>()?;
            if places.iter().all(Option::is_none) {
                return Err(Error::config("blocks", "no block has a channel that could have one more level"));
            }
            Box::new(move |name| in_levels(name, &places))
        }
        Growth::MemoryLevel(period) => {
            let blocks = config.blocks.iter_mut().enumerate();
            let places: Vec<_> = blocks.map(|block| memory::add_level(model, params, block, period)).collect();
            if places.iter().all(Option::is_none) {
                let reason = "no block has a mixer with a memory that could have one more level: add a level to channels, \
                              or a block";
                return Err(Error::config("blocks", reason));
            }
            Box::new(move |name| memory::origin(name, &places))
        }
    };
    Ok((config, origin))
}

/// Where a tensor of the grown model comes from.
enum Origin {
    /// A tensor of the old one.
    Old(String),
    /// It is new; what stands beside it.
    New(String),
    /// It is what the growth says.
    Known(Vec<f32>),
}

/// Of a level that was added: its place in the list, and whether the channel was a perceptron.
struct Place {
    at: usize,
    levels: usize,
    was_mlp: bool,
}

fn leads_to_stream(spec: &ParamSpec) -> bool {
    // In `mal` the memory leads to attention.
    let inside = spec.name.ends_with(".mixer.memory.out.weight");
    !inside && (spec.name.ends_with(".out.weight") || spec.name.ends_with(".down.weight"))
}

/// The names behind a block that was put in behind block `behind`.
fn behind_block(name: &str, behind: usize) -> Origin {
    let Some((number, rest)) = block_of(name) else { return Origin::Old(name.into()) };
    match number {
        n if n <= behind => Origin::Old(name.into()),
        n if n == behind + 1 => Origin::New(format!("blocks.{behind}.{rest}")),
        n => Origin::Old(format!("blocks.{}.{rest}", n - 1)),
    }
}

/// The names in levels of which one was put in.
fn in_levels(name: &str, places: &[Option<Place>]) -> Origin {
    let Some((number, rest)) = block_of(name) else { return Origin::Old(name.into()) };
    let Some(Some(place)) = places.get(number) else { return Origin::Old(name.into()) };
    let Some((level, rest)) = rest.strip_prefix("channel.levels.").and_then(|r| r.split_once('.')) else {
        return Origin::Old(name.into());
    };
    let level: usize = level.parse().unwrap_or(0);
    let old = |level: usize| match (place.was_mlp, rest) {
        (true, "norm.scale") => format!("blocks.{number}.channel_norm.scale"),
        (true, rest) => format!("blocks.{number}.channel.{rest}"),
        (false, rest) => format!("blocks.{number}.channel.levels.{level}.{rest}"),
    };
    match level.cmp(&place.at) {
        std::cmp::Ordering::Less => Origin::Old(old(level)),
        std::cmp::Ordering::Equal => Origin::New(old(level.min(place.levels - 2))),
        std::cmp::Ordering::Greater => Origin::Old(old(level - 1)),
    }
}

/// Which of `count` levels was added to the block of a tensor.
fn added_level(origin: &dyn Fn(&str) -> Origin, spec: &ParamSpec, count: usize) -> usize {
    let block = block_of(&spec.name).map_or(0, |(n, _)| n);
    let is_new = |l: &usize| matches!(origin(&format!("blocks.{block}.channel.levels.{l}.up.weight")), Origin::New(_));
    (0..count).find(is_new).unwrap_or(count)
}

fn block_of(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// Puts a level into a block's channel, by its period; `None` where it has no channel.
fn add_level(block: &mut BlockConfig, period: u64, context: u64) -> Result<Option<Place>> {
    let (mut cms, was_mlp) = match &block.channel {
        ChannelConfig::None => return Ok(None),
        ChannelConfig::Cms(cms) => (cms.clone(), false),
        ChannelConfig::Mlp(mlp) => {
            // Slower than what comes beside it, and it never changes.
            let still = CmsLevel { period: Some(context.max(period)), rate: 0.0, ..CmsLevel::default() };
            let (hidden, kind) = (mlp.hidden, mlp.kind);
            (CmsConfig { hidden, kind, levels: vec![still], ..CmsConfig::default() }, true)
        }
    };
    if cms.arrangement == Arrangement::Headwise {
        let reason = "levels of `headwise` share out the units of one perceptron: there is no room for one more";
        return Err(Error::config("channel.arrangement", reason));
    }
    let periods = cms.periods();
    for (level, period) in cms.levels.iter_mut().zip(&periods) {
        level.period = Some(*period);
    }
    let at = periods.iter().take_while(|p| **p < period).count();
    cms.levels.insert(at, CmsLevel { period: Some(period), ..CmsLevel::default() });
    let place = Place { at, levels: cms.levels.len(), was_mlp };
    block.channel = ChannelConfig::Cms(cms);
    Ok(Some(place))
}
