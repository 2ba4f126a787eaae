//! Long streams: memories in every mixer and continuum memories behind them stay finite and keep learning.

use hecate_core::AnyRule;
use hecate_core::ops::Cpu;
use hecate_model::config::{
    Arrangement, AttentionConfig, BlockConfig, ChannelConfig, CmsConfig, CmsLevel, LevelConfig, MacConfig, MagConfig,
    MalConfig, MemoryConfig, MixerConfig, Objective, Replay,
};
use hecate_model::rng::Rng;
use hecate_model::{Access, Logits, MemoryInfo, Model, ModelConfig, Params, State, Workspace};

const VOCAB: usize = 32;
/// Tokens of one nature in a long stream.
const STRETCH: usize = 3000;
const ARRANGEMENTS: [Arrangement; 4] =
    [Arrangement::Sequential, Arrangement::Nested, Arrangement::Independent, Arrangement::Headwise];

/// Token `t` of a stream that changes its nature every `stretch` tokens: noise, one token, a rhythm, a slow drift, pairs.
fn token(t: usize, stretch: usize, rng: &mut Rng) -> u32 {
    let noise = rng.bits() as usize;
    (match t / stretch % 5 {
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

/// Every composition that has a memory, with a level of it for each of these periods where they are more than one.
fn compositions(rule: &AnyRule, periods: &[u64]) -> Vec<MixerConfig> {
    let level = |&period: &u64| LevelConfig { rule: None, period: Some(period) };
    let levels = if periods.len() > 1 { periods.iter().map(level).collect() } else { Vec::new() };
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
    let ids: Vec<u32> = (0..=tokens).map(|t| token(t, STRETCH, &mut rng)).collect();
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

/// Mean length of a change of each of three levels with periods 4, 16 and 64, in every third of a stream of a length that
/// has all natures in each; `held` says what a level holds in a state.
fn change_lengths(
    (model, params): &(Model, Params<f32>),
    held: impl Fn(&State<f32>, usize) -> Vec<f32>,
    starts_anew: bool,
) -> [[f64; 3]; 3] {
    let (mut state, mut ws, mut rng) = (model.new_state(), Workspace::default(), Rng::new(3, "stream"));
    let (tokens, stretch, periods) = (18_000, 1200, [4, 16, 64]);
    let mut before: Vec<Vec<f32>> = (0..3).map(|l| held(&state, l)).collect();
    let (mut lengths, mut changes) = ([[0.0_f64; 3]; 3], [0; 3]);
    let ids: Vec<u32> = (0..tokens).map(|t| token(t, stretch, &mut rng)).collect();
    for (i, piece) in ids.chunks(4).enumerate() {
        model.forward(&Cpu::inference(), params, &mut state, piece, &Access::Learn, Logits::Last, &mut ws).unwrap();
        for l in 0..3 {
            let now = held(&state, l);
            let square: f64 = now.iter().zip(&before[l]).map(|(a, b)| f64::from((a - b) * (a - b))).sum();
            before[l] = now;
            // The slice before this call closes when it begins: what starts anew then takes no step of its own.
            let anew = starts_anew && l < 2 && (4 * i).is_multiple_of(periods[l + 1]);
            if square > 0.0 && !anew {
                changes[l] += 1;
                lengths[3 * 4 * i / tokens][l] += square.sqrt() * periods[l] as f64 / (tokens as f64 / 3.0);
            }
        }
    }
    let due = |l: usize| tokens as f64 / periods[l] as f64 * if starts_anew && l < 2 { 0.75 } else { 1.0 };
    assert!((0..3).all(|l| (changes[l] as f64 / due(l) - 1.0).abs() < 0.02), "{changes:?} changes");
    lengths
}

/// Levels of a longer period do not take the larger steps, and do not come to by and by.
fn check_lengths(what: &str, lengths: [[f64; 3]; 3]) {
    for (third, [fast, middle, slow]) in lengths.into_iter().enumerate() {
        for (name, length) in [("middle", middle), ("slow", slow)] {
            let ratio = length / fast;
            assert!((0.1..2.0).contains(&ratio), "{what}, third {third}, {name}: {ratio} of {fast}");
        }
    }
    let [first, _, last] = lengths.map(|l| l[2] / l[0]);
    assert!((0.3..3.0).contains(&(last / first)), "{what}: the slow level's share went from {first} to {last}");
}

#[test]
fn continuum_levels_of_any_period_take_steps_of_like_size_over_a_long_stream() {
    for arrangement in ARRANGEMENTS {
        let m = model(MixerConfig::None, cms(3, arrangement, 0.05));
        let tensors = m.0.state_layout().fast_tensors();
        let held = |state: &State<f32>, level: usize| -> Vec<f32> {
            let headwise = arrangement == Arrangement::Headwise;
            let part = if headwise { "channel".to_string() } else { format!("channel.levels.{level}") };
            let tensor = tensors.iter().find(|t| t.name == format!("blocks.0.{part}.up.delta")).unwrap();
            let values = state.fast[tensor.runs[0].clone()].iter().copied().enumerate();
            // Of 24 hidden units a level has 8, and their gates.
            let own = |i: usize| !headwise || i % tensor.shape[1] % 24 / 8 == level;
            values.filter(|(i, _)| own(*i)).map(|(_, x)| x).collect()
        };
        check_lengths(&format!("{arrangement:?}"), change_lengths(&m, held, arrangement == Arrangement::Nested));
    }
}

#[test]
fn memory_levels_of_any_period_take_steps_of_like_size_in_every_mixer() {
    for rule in ["gated_delta", "titans"] {
        for mixer in compositions(&AnyRule::named(rule).unwrap(), &[4, 16, 64]) {
            let what = format!("{mixer:?}");
            let m = model(mixer, ChannelConfig::None);
            let infos: Vec<MemoryInfo> =
                m.0.memories().filter(|(block, _)| *block == 0).map(|(_, info)| info).collect();
            // A head's memory, and behind it what it gathers.
            let held = |state: &State<f32>, level: usize| -> Vec<f32> {
                let (info, own) = (&infos[level], &state.data[infos[level].state.clone()]);
                let len = own.len() / info.heads;
                own.chunks(len).flat_map(|head| head[..len / 2].to_vec()).collect()
            };
            check_lengths(&what, change_lengths(&m, held, false));
        }
    }
}

#[test]
fn continuum_memories_learn_a_rhythm_better_than_what_stands_still() {
    for arrangement in ARRANGEMENTS {
        let learned = read(MixerConfig::None, cms(3, arrangement, 0.1), 24_000);
        let still = read(MixerConfig::None, cms(3, arrangement, 0.0), 24_000);
        assert!(learned[1] < still[1] - 0.2, "{arrangement:?}: {learned:?} against {still:?}");
    }
}

/// Pairs count like new tokens, at rates at which these alone stay bounded.
#[test]
fn continuum_memories_that_learn_again_stay_bounded() {
    let level = |period, rate| CmsLevel { period: Some(period), rate, ..CmsLevel::default() };
    let levels = vec![level(5, 0.1), level(12, 0.1), level(80, 0.3)];
    for objective in [Objective::Task, Objective::LocalL2] {
        for arrangement in [Arrangement::Sequential, Arrangement::Nested, Arrangement::Independent] {
            let replay = Some(Replay { size: 40, draw: 7, ..Replay::default() });
            let base = CmsConfig { hidden: Some(24), levels: levels.clone(), ..CmsConfig::default() };
            let channel = ChannelConfig::Cms(CmsConfig { arrangement, objective, replay, ..base });
            read(compositions(&AnyRule::named("titans").unwrap(), &[1]).swap_remove(0), channel, 9000);
        }
    }
}

#[test]
#[ignore = "slow: 100,000 tokens through every composition of five rules, some minutes"]
fn every_composition_stays_finite_over_a_hundred_thousand_tokens() {
    for (r, rule) in ["titans", "gated_delta", "titans_mlp_chunk8", "self_modifying", "lattice"].iter().enumerate() {
        let rule = AnyRule::named(rule).unwrap();
        for c in 0..4 {
            let k = (r + c) % 3 + 1;
            let periods: Vec<u64> = (0..k as u32).map(|i| 8_u64.pow(i)).collect();
            let mixer = compositions(&rule, &periods).swap_remove(c);
            read(mixer, cms(k, ARRANGEMENTS[(r + 2 * c) % 4], 0.1), 100_000);
        }
    }
}

/// Every rule in every composition with every number of levels over some tokens of all natures, which together are over a
/// hundred thousand; what cannot be is refused by name.
#[test]
#[ignore = "slow: every rule in every composition with one to four levels, some minutes"]
fn every_rule_in_every_composition_with_every_number_of_levels_stays_bounded() {
    let (stretch, mut tokens) = (32, 0);
    for (r, rule) in AnyRule::all().iter().enumerate() {
        for (c, k) in (0..4).flat_map(|c| (1..=4).map(move |k| (c, k))) {
            let what = format!("{} in composition {c} with {k} levels", rule.name());
            let mixer = compositions(rule, &[1, 4, 16, 64][..k]).swap_remove(c);
            let channel = cms(k, ARRANGEMENTS[(r + c + k) % 4], 0.1);
            let blocks = vec![BlockConfig { repeat: 1, mixer, channel, ..BlockConfig::default() }];
            let config = ModelConfig { vocab: VOCAB, width: 16, context: 512, blocks, ..ModelConfig::default() };
            let model = Model::new(&config);
            // A period of a period is none.
            if rule.name() == "paced" && k > 1 {
                let error = model.err().unwrap_or_else(|| panic!("{what} was accepted")).to_string();
                assert!(error.contains("mixer") && error.contains("`paced`"), "{what}: {error}");
                continue;
            }
            let model = model.unwrap_or_else(|e| panic!("{what}: {e}"));
            let (params, mut state, mut ws) = (model.params().init(2), model.new_state(), Workspace::default());
            let mut rng = Rng::new(3, "stream");
            let ids: Vec<u32> = (0..5 * stretch).map(|t| token(t, stretch, &mut rng)).collect();
            for piece in ids.chunks(stretch) {
                let (ops, learn) = (Cpu::inference(), Access::Learn);
                let logits = model.forward(&ops, &params, &mut state, piece, &learn, Logits::All, &mut ws);
                let logits = logits.unwrap_or_else(|e| panic!("{what}: {e}"));
                let most = |x: &[f32]| x.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                assert!(state.first_non_finite().is_none(), "{what}: {:?}", state.first_non_finite());
                assert!(most(logits) < 30.0 && most(&state.data).max(most(&state.fast)) < 1e3, "{what}");
            }
            tokens += ids.len();
        }
    }
    assert!(tokens > 100_000, "{tokens} tokens");
}
