//! Rows about whole models: training steps, forward passes, decoding.
//!
//! Besides two models of a few million parameters there are small ones in the shapes that other projects publish
//! figures for: memory as a gate under the delta rule over 16 tokens, and one linear memory as wide as the model.

use super::decoding::{Served, decoding, inference};
use super::harness::{Case, Fault, Work};
use super::inputs::fault;
use super::step::step;
use hecate_core::AnyRule;
use hecate_core::ops::{Cpu, Reference};
use hecate_model::config::{AttentionConfig, BlockConfig, ChannelConfig, MagConfig, MemoryConfig, MixerConfig};
use hecate_model::rng::Rng;
use hecate_model::{Access, Logits, Model, ModelConfig, Params, Workspace};

/// Tokens of the calls that are compared with the reference, which is slow: an odd number, and more than a vector.
pub(super) const VERIFIED_TOKENS: usize = 19;

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        step("transformer d=256 L=4 V=4096 T=512", &large(MixerConfig::Attention(attention(4, 512))), 4),
        step("titans mag d=256 L=4 V=4096 T=512 window=128", &large(mag(attention(4, 128), memory("titans", 4))), 4),
    ];
    for width in [64, 128, 256] {
        let (name, config) = (format!("delta mag d={width} L=1 V=256 T=16"), delta_mag(width));
        all.extend([forward(&name, &config), step(&name, &config, 1)]);
    }
    for (memory, rule) in wide_memories() {
        for (width, lanes) in [(256, &[1, 4][..]), (512, &[1])] {
            let (name, config) = (format!("{memory} d={width} L=1 V=256 T=512"), one_memory(width, &rule));
            all.push(forward(&name, &config));
            all.extend(lanes.iter().map(|&lanes| step(&name, &config, lanes)));
        }
        all.push(decoding(&format!("{memory} d=256 L=1 V=256"), &one_memory(256, &rule), 0, 512));
    }
    for (name, mixer) in [
        ("transformer d=64 L=1 V=256 window=256", MixerConfig::Attention(attention(4, 256))),
        ("titans memory d=64 L=1 V=256", MixerConfig::Memory(memory("titans", 4))),
        ("titans mag d=64 L=1 V=256 window=256", mag(attention(4, 256), memory("titans", 4))),
    ] {
        let config = model(64, 256, blocks(1, mixer, ChannelConfig::default()));
        all.extend([0, 99_000].map(|start| decoding(name, &config, start, 1000)));
    }
    all
}

fn large(mixer: MixerConfig) -> ModelConfig {
    ModelConfig { vocab: 4096, ..model(256, 512, blocks(4, mixer, ChannelConfig::default())) }
}

/// One memory as wide as the model gates attention in heads of 16 over the whole call; no convolution, no channel.
fn delta_mag(width: usize) -> ModelConfig {
    // The delta rule with decay is what is called delta rule in models of this shape.
    let memory = MemoryConfig { conv: 0, ..memory("decay_delta", 1) };
    model(width, 16, blocks(1, mag(attention(width / 16, 16), memory), ChannelConfig::None))
}

/// Memories that are as wide as the model: a matrix that is updated exactly, the same with the gradients of 64 tokens
/// at once, and a perceptron with them.
fn wide_memories() -> [(&'static str, AnyRule); 3] {
    let frozen = r#"{"name": "miras", "algorithm": "momentum", "chunk": 64}"#;
    let named = |rule| AnyRule::named(rule).expect("the rule is registered");
    [
        ("linear titans", named("titans")),
        ("linear titans of chunks of 64", serde_json::from_str(frozen).expect("the settings exist")),
        ("mlp titans of chunks of 64", named("titans_mlp")),
    ]
}

/// One memory as wide as the model and nothing else; no convolution, no channel.
fn one_memory(width: usize, rule: &AnyRule) -> ModelConfig {
    let memory = MemoryConfig { conv: 0, heads: 1, rule: rule.clone(), ..MemoryConfig::default() };
    model(width, 512, blocks(1, MixerConfig::Memory(memory), ChannelConfig::None))
}

pub(super) fn model(width: usize, context: usize, blocks: Vec<BlockConfig>) -> ModelConfig {
    ModelConfig { vocab: 256, width, context, blocks, ..ModelConfig::default() }
}

pub(super) fn blocks(repeat: usize, mixer: MixerConfig, channel: ChannelConfig) -> Vec<BlockConfig> {
    vec![BlockConfig { repeat, mixer, channel, ..BlockConfig::default() }]
}

pub(super) fn attention(heads: usize, window: usize) -> AttentionConfig {
    AttentionConfig { heads, window: Some(window), ..AttentionConfig::default() }
}

pub(super) fn memory(rule: &str, heads: usize) -> MemoryConfig {
    let rule = AnyRule::named(rule).expect("the rule is registered");
    MemoryConfig { rule, heads, ..MemoryConfig::default() }
}

fn mag(attention: AttentionConfig, memory: MemoryConfig) -> MixerConfig {
    MixerConfig::Mag(MagConfig { attention, memory, persistent: 0 })
}

/// A layout whose config is one of this file.
pub(super) fn laid_out(config: &ModelConfig) -> Model {
    Model::new(config).expect("the bench's configs can be built")
}

/// The closed formula of [`Model::flops`]: weights in products, keys seen on average, and the rule.
pub(super) fn formula(config: &ModelConfig) -> String {
    let mixer = match config.blocks[0].mixer {
        MixerConfig::Attention(_) => "4 C keys",
        MixerConfig::Memory(_) => "rule",
        MixerConfig::Mag(_) | MixerConfig::Mal(_) => "4 C keys + rule",
        MixerConfig::Mac(_) => "8 C keys + rule + read",
        MixerConfig::None => "0",
    };
    let learns = config.blocks.iter().any(|block| matches!(block.channel, ChannelConfig::Cms(_)));
    format!("(2 weights + L ({mixer})){}", if learns { " + T 2 (weights + moving)" } else { "" })
}

/// Bytes that `n` tokens must move because weights change, if any do.
pub(super) fn bytes(config: &ModelConfig, n: usize, training: bool) -> Option<f64> {
    let bytes = n as f64 * laid_out(config).learning(training).bytes;
    (bytes > 0.0).then_some(bytes)
}

/// Tokens that the model knows, the same on every run.
pub(super) fn tokens(config: &ModelConfig, n: usize) -> Vec<u32> {
    let mut rng = Rng::new(7, "bench");
    (0..n).map(|_| (rng.bits() % config.vocab as u64) as u32).collect()
}

/// Parameters in double precision.
pub(super) fn double(params: &Params<f32>) -> Params<f64> {
    Params { data: params.data.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>().into() }
}

/// A pass over the model's context from an empty state, with the kernels of inference.
pub(super) fn forward(name: &str, config: &ModelConfig) -> Case {
    let (n, config) = (config.context, config.clone());
    Case {
        name: format!("{name} forward"),
        formula: format!("T {}", formula(&config)),
        flops: n as f64 * (laid_out(&config).flops(n, 0) + laid_out(&config).learning(false).flops),
        bytes: bytes(&config, n, false),
        tokens: Some(n),
        build: Box::new(move || {
            let (mut served, ids) = (Served::new(&config), tokens(&config, n));
            Work {
                fault: against_reference(&config),
                call: Box::new(move |cpu| {
                    served.state.reset();
                    served.forward(&inference(cpu), &ids, Logits::All);
                }),
            }
        }),
    }
}

/// Compares the logits of a short pass with those of the reference in double precision.
pub(super) fn against_reference(config: &ModelConfig) -> Fault {
    let (mut served, ids) = (Served::new(config), tokens(config, VERIFIED_TOKENS));
    Box::new(move |cpu: &Cpu| {
        let (model, params) = (&served.model, double(&served.params));
        let (mut state, mut ws) = (model.new_state(), Workspace::default());
        let ops = Reference::<f64>::new();
        let want = model.forward(&ops, &params, &mut state, &ids, &Access::Learn, Logits::All, &mut ws);
        let want = want.expect("fresh models are finite").to_vec();
        served.state.reset();
        let got = served.forward(&inference(cpu), &ids, Logits::All);
        fault(got.iter().copied().zip(want))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// But for the widest, of which the same is seen at half their width: a bench verifies each row before it times it, and
    /// the reference would take minutes here.
    #[test]
    fn every_row_about_a_model_is_right() {
        for case in cases().into_iter().filter(|case| !case.name.contains("chunks of 64 d=512")) {
            let mut work = (case.build)();
            assert_eq!((work.fault)(&Cpu::training()), None, "{}", case.name);
        }
    }
}
