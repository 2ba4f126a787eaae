//! Long streams: memories in every mixer and continuum memories behind them stay finite and keep learning.

use hecate_core::AnyRule;
use hecate_core::ops::Cpu;
use hecate_model::config::{
    Arrangement, AttentionConfig, BlockConfig, ChannelConfig, CmsConfig, CmsLevel, LevelConfig, MacConfig, MagConfig,
    MalConfig, MemoryConfig, MixerConfig,
};
use hecate_model::rng::Rng;
use hecate_model::{Access, Logits, Model, ModelConfig, Params, Workspace};

const VOCAB: usize = 32;

/// Token `t` of a stream that changes its nature every so often: noise, one token, a rhythm, a slow drift, pairs.
fn token(t: usize, rng: &mut Rng) -> u32 {
    let noise = rng.bits() as usize;
    (match t / 3000 % 5 {
        0 => noise,
        1 => 7,
        2 => t % 3 + t / 100,
        3 => t / 50 + noise % 3,
        _ => t / 2 * 5 + t % 2,
    } % VOCAB) as u32
}

fn cms(k: usize, arrangement: Arrangement, rate: f64) -> ChannelConfig {
    let level = |i: u32| CmsLevel { period: Some(4 << (2 * i)), rate, ..CmsLevel::default() };
    let levels = (0..k as u32).map(level).collect();
    ChannelConfig::Cms(CmsConfig { hidden: Some(24), arrangement, levels, ..CmsConfig::default() })
}

fn model(mixer: MixerConfig, channel: ChannelConfig) -> (Model, Params<f32>) {
    let blocks = vec![BlockConfig { repeat: 2, mixer, channel, ..BlockConfig::default() }];
    let model = Model::new(&ModelConfig { vocab: VOCAB, width: 16, context: 512, blocks, ..ModelConfig::default() });
    let model = model.unwrap();
    let params = model.params().init(2);
    (model, params)
}

/// Every composition that has a memory, with `k` levels of it where that is more than one.
fn compositions(rule: &AnyRule, k: usize) -> Vec<MixerConfig> {
    let level = |i: usize| LevelConfig { rule: None, period: Some(8_u64.pow(i as u32)) };
    let levels = if k > 1 { (0..k).map(level).collect() } else { Vec::new() };
    let memory = MemoryConfig { rule: rule.clone(), heads: 2, levels, ..MemoryConfig::default() };
    let attention = AttentionConfig { heads: 2, window: Some(16), ..AttentionConfig::default() };
    let whole = AttentionConfig { window: None, ..attention.clone() };
    vec![
        MixerConfig::Memory(memory.clone()),
        MixerConfig::Mag(MagConfig { attention: attention.clone(), memory: memory.clone(), persistent: 2 }),
        MixerConfig::Mal(MalConfig { attention, memory: memory.clone(), persistent: 2 }),
        MixerConfig::Mac(MacConfig { segment: 16, attention: whole, memory, persistent: 2, causal: true }),
    ]
}

/// Reads `tokens` tokens; the mean loss of the rhythm at its first and at its last visit, in nats.
fn read(mixer: MixerConfig, channel: ChannelConfig, tokens: usize) -> [f64; 2] {
    let what = format!("{mixer:?} {channel:?}");
    let (model, params) = model(mixer, channel);
    let (mut state, mut ws, mut rng) = (model.new_state(), Workspace::default(), Rng::new(3, "stream"));
    let ids: Vec<u32> = (0..=tokens).map(|t| token(t, &mut rng)).collect();
    let mut visits = Vec::new();
    for (i, piece) in ids[..tokens].chunks(1000).enumerate() {
        let logits = model.forward(&Cpu::inference(), &params, &mut state, piece, &Access::Learn, Logits::All, &mut ws);
        let logits = logits.unwrap_or_else(|e| panic!("{what}, tokens from {}: {e}", 1000 * i));
        // The last third of a visit.
        if i % 15 == 8 {
            let loss = |(t, row): (usize, &[f32])| {
                let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
                sum.ln() - f64::from(row[ids[1000 * i + t + 1] as usize])
            };
            visits.push(logits.chunks(VOCAB).enumerate().map(loss).sum::<f64>() / piece.len() as f64);
        }
    }
    [visits[0], visits[visits.len() - 1]]
}

#[test]
fn levels_of_any_period_take_steps_of_like_size_over_a_long_stream() {
    let (model, params) = model(MixerConfig::None, cms(3, Arrangement::Independent, 0.05));
    let (mut state, mut ws, mut rng) = (model.new_state(), Workspace::default(), Rng::new(3, "stream"));
    let tensors = model.state_layout().fast_tensors();
    let place = |level: usize| {
        let name = format!("blocks.0.channel.levels.{level}.up.delta");
        tensors.iter().find(|t| t.name == name).unwrap().runs[0].clone()
    };
    let periods = [4, 16, 64];
    // Mean length of a step of each level in the first and in the last third.
    let mut lengths = [[0.0_f64; 3]; 3];
    let tokens = 45_000;
    let mut before: Vec<Vec<f32>> = (0..3).map(|l| state.fast[place(l)].to_vec()).collect();
    for (i, piece) in (0..tokens).map(|t| token(t, &mut rng)).collect::<Vec<_>>().chunks(4).enumerate() {
        model.forward(&Cpu::inference(), &params, &mut state, piece, &Access::Learn, Logits::Last, &mut ws).unwrap();
        // Of the slice before this one: it closes when this one begins.
        for (l, period) in periods.into_iter().enumerate().filter(|(_, period)| (4 * i).is_multiple_of(*period)) {
            let now = &state.fast[place(l)];
            let square: f64 = now.iter().zip(&before[l]).map(|(a, b)| f64::from((a - b) * (a - b))).sum();
            lengths[3 * 4 * i / tokens][l] += square.sqrt() * period as f64 / (tokens as f64 / 3.0);
            before[l] = now.to_vec();
        }
    }
    for (third, [fast, middle, slow]) in lengths.into_iter().enumerate() {
        for (name, length) in [("middle", middle), ("slow", slow)] {
            let ratio = length / fast;
            assert!((0.1..2.0).contains(&ratio), "third {third}, {name}: {ratio} of {fast}");
        }
    }
    let [first, _, last] = lengths.map(|l| l[2] / l[0]);
    assert!((0.3..3.0).contains(&(last / first)), "the slow level's share went from {first} to {last}");
}

#[test]
fn continuum_memories_learn_a_rhythm_better_than_what_stands_still() {
    for arrangement in [Arrangement::Sequential, Arrangement::Independent, Arrangement::Nested, Arrangement::Headwise] {
        let learned = read(MixerConfig::None, cms(3, arrangement, 0.1), 24_000);
        let still = read(MixerConfig::None, cms(3, arrangement, 0.0), 24_000);
        assert!(learned[1] < still[1] - 0.2, "{arrangement:?}: {learned:?} against {still:?}");
    }
}

#[test]
#[ignore = "slow: 100,000 tokens through every composition of five rules, some minutes"]
fn every_composition_stays_finite_over_a_hundred_thousand_tokens() {
    let arrangements = [Arrangement::Sequential, Arrangement::Nested, Arrangement::Independent, Arrangement::Headwise];
    for (r, rule) in ["titans", "gated_delta", "titans_mlp_chunk8", "self_modifying", "lattice"].iter().enumerate() {
        let rule = AnyRule::named(rule).unwrap();
        for c in 0..4 {
            let k = (r + c) % 3 + 1;
            let mixer = compositions(&rule, k).swap_remove(c);
            read(mixer, cms(k, arrangements[(r + 2 * c) % 4], 0.1), 100_000);
        }
    }
}
