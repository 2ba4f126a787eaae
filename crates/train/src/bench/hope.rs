//! Rows about HOPE and Hope-Attention: four blocks that are trained, and one block in the shape that other projects publish
//! figures for.

use super::decoding::decoding;
use super::harness::Case;
use super::models::{attention, blocks, forward, memory, model};
use super::step::step;
use hecate_model::ModelConfig;
use hecate_model::config::{ChannelConfig, CmsConfig, CmsLevel, MixerConfig};

/// Width of the stream, and tokens of a sequence.
const WIDTH: usize = 256;
const CONTEXT: usize = 512;
/// Heads of memories and of attention.
const HEADS: usize = 4;

pub(super) fn cases() -> Vec<Case> {
    let mut all: Vec<Case> = [&[8, 64, 512][..], &[64, 512]]
        .map(|periods| step(&format!("hope d=256 L=4 V=256 T=512 {}", named(periods)), &hope(4, periods), 4))
        .into();
    let periods = [64, 512];
    let alone = MixerConfig::Attention(attention(HEADS, CONTEXT));
    for (name, config) in [("hope", hope(1, &periods)), ("hope attention", with_cms(1, alone, &periods))] {
        let name = format!("{name} d=256 L=1 V=256 T=512 {}", named(&periods));
        all.extend([forward(&name, &config), step(&name, &config, 1)]);
        all.extend([0, 20_000].map(|start| decoding(&name, &config, start, CONTEXT)));
    }
    all
}

fn hope(count: usize, periods: &[u64]) -> ModelConfig {
    with_cms(count, MixerConfig::Memory(memory("self_modifying", HEADS)), periods)
}

/// A continuum memory of these periods behind a mixer.
fn with_cms(count: usize, mixer: MixerConfig, periods: &[u64]) -> ModelConfig {
    let levels = periods.iter().map(|&period| CmsLevel { period: Some(period), ..CmsLevel::default() }).collect();
    let channel = ChannelConfig::Cms(CmsConfig { levels, ..CmsConfig::default() });
    model(WIDTH, CONTEXT, blocks(count, mixer, channel))
}

fn named(periods: &[u64]) -> String {
    let periods: Vec<String> = periods.iter().map(u64::to_string).collect();
    format!("cms {}", periods.join("/"))
}
