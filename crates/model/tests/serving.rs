//! Promises of serving, bit for bit, on every instruction set of the machine: cuts, files, forks, access, causality.

use hecate_core::ops::Cpu;
use hecate_core::simd::Isa;
use hecate_core::{Activation, AnyRule, Dims};
use hecate_model::config::{
    Arrangement, AttentionConfig, BlockConfig, ChannelConfig, CmsConfig, CmsLevel, Consolidation, LevelConfig,
    MacConfig, MagConfig, MalConfig, MemoryConfig, MixerConfig, Objective, Reads, Replay, Surprise, SurpriseGate,
};
use hecate_model::rng::Rng;
use hecate_model::state::{Content, NamedTensor};
use hecate_model::{
    Access, GenerationConfig, Lineage, Logits, Model, ModelConfig, Params, Parts, Sampler, State, Workspace, generate,
};
use std::ops::ControlFlow;

const VOCAB: usize = 50;

fn config(mixer: MixerConfig) -> ModelConfig {
    with_channel(mixer, ChannelConfig::default())
}

fn with_channel(mixer: MixerConfig, channel: ChannelConfig) -> ModelConfig {
    let blocks = vec![BlockConfig { repeat: 2, mixer, channel, ..BlockConfig::default() }];
    ModelConfig { vocab: VOCAB, width: 32, blocks, ..ModelConfig::default() }
}

/// Rules that stand beside attention too: one whose memory starts at zero, two whose start is learned.
const WITH_ATTENTION: [&str; 3] = ["titans", "titans_mlp", "titans_mlp_chunk8"];

/// Every mixer that has attention beside a memory, and the memory with levels and persistent rows. In `mac` heads are
/// as wide together as the stream.
fn beside(window: &AttentionConfig, memory: MemoryConfig) -> Vec<MixerConfig> {
    let level = |period| LevelConfig { rule: None, period: Some(period) };
    let levels = MemoryConfig { levels: vec![level(1), level(3), level(40)], persistent: 3, ..memory.clone() };
    let segment = AttentionConfig { heads: 2, kv_heads: Some(1), ..AttentionConfig::default() };
    let wide = MemoryConfig { value_width: None, key_width: None, ..memory.clone() };
    vec![
        MixerConfig::Mag(MagConfig { attention: window.clone(), memory: memory.clone(), persistent: 3 }),
        MixerConfig::Mal(MalConfig { attention: window.clone(), memory, persistent: 3 }),
        MixerConfig::Mac(MacConfig { segment: 37, causal: true, attention: segment, memory: wide, persistent: 3 }),
        MixerConfig::Memory(levels),
    ]
}

/// Continuum memories behind every kind of mixer: levels that change after a few tokens and after more than a slice.
fn continua(mixers: &[MixerConfig]) -> Vec<ModelConfig> {
    let level = |period, rate| CmsLevel { period: Some(period), rate, ..CmsLevel::default() };
    let levels = vec![level(5, 0.1), level(12, 0.1), level(80, 0.3)];
    let config = |(i, mixer): (usize, &MixerConfig)| {
        use Arrangement::*;
        let arrangement = [Sequential, Nested, Headwise, Independent][i % 4];
        let objective = if i % 5 == 4 { Objective::LocalL2 } else { Objective::Task };
        let (hidden, levels) = (Some(24), levels.clone());
        let mut cms = CmsConfig { hidden, arrangement, objective, levels, ..CmsConfig::default() };
        let slow = |reads| Some(Consolidation { keep: 0.8, reads });
        match i % 8 {
            0 => (cms.learn_periods, cms.learn_rates) = (true, true),
            1 => cms.consolidation = slow(Reads::Fast),
            2 => cms.consolidation = slow(Reads::Both),
            3 => cms.replay = Some(Replay { size: 40, draw: 7, ..Replay::default() }),
            4 => cms.gate = Some(SurpriseGate { signal: Surprise::Loss, threshold: 3.9 }),
            5 => cms.online = true,
            6 => cms.levels.iter_mut().for_each(|level| level.serve_rate = Some(0.2)),
            _ => cms.gate = Some(SurpriseGate { signal: Surprise::Norm, threshold: 0.1 }),
        }
        // A slowest level that training would leave to the optimizer.
        let context = if i % 3 == 0 { 64 } else { 256 };
        ModelConfig { context, ..with_channel(mixer.clone(), ChannelConfig::Cms(cms)) }
    };
    mixers.iter().enumerate().map(config).collect()
}

/// Every mixer, continuum memories behind them, and every rule alone, sizes that are no multiples of a vector.
fn models() -> Vec<(Model, Params<f32>)> {
    let window = AttentionConfig { heads: 2, head_width: Some(10), window: Some(70), ..AttentionConfig::default() };
    let full = AttentionConfig { heads: 4, kv_heads: Some(2), max_positions: 400, ..AttentionConfig::default() };
    let mut mixers = vec![MixerConfig::Attention(window.clone()), MixerConfig::Attention(full)];
    for rule in AnyRule::all() {
        let key_width = if rule.check(Dims::new(9, 10)).is_ok() { 9 } else { 10 };
        let with_window = WITH_ATTENTION.contains(&rule.name());
        // Heads that share the stream are together as wide as it.
        let shares = rule.inputs().iter().any(|i| i.activation == Activation::Share);
        let [key_width, value_width] = if shares { [None; 2] } else { [Some(key_width), Some(10)] };
        let memory = MemoryConfig { rule, heads: 2, key_width, value_width, ..MemoryConfig::default() };
        mixers.push(MixerConfig::Memory(memory.clone()));
        if with_window {
            mixers.extend(beside(&window, memory));
        }
    }
    let build = |config: ModelConfig| {
        let model = Model::new(&config).unwrap();
        let params = model.params().init(1);
        (model, params)
    };
    // HOPE is the memory that modifies itself before a continuum memory.
    let part_of = |mixer: &&MixerConfig| match mixer {
        MixerConfig::Memory(m) => WITH_ATTENTION.contains(&m.rule.name()) || m.rule.name() == "self_modifying",
        _ => true,
    };
    let mut behind: Vec<MixerConfig> = mixers.iter().filter(part_of).cloned().collect();
    // The last one first, in front of levels that learn when they change and by how much.
    behind.rotate_right(1);
    mixers.into_iter().map(config).chain(continua(&behind)).map(build).collect()
}

fn tokens(n: usize) -> Vec<u32> {
    let mut rng = Rng::new(5, "tokens");
    (0..n).map(|_| (rng.bits() % VOCAB as u64) as u32).collect()
}

fn instruction_sets() -> impl Iterator<Item = Cpu> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(|isa| Cpu::inference().with_isa(isa))
}

fn run(
    ops: &Cpu,
    (model, params): &(Model, Params<f32>),
    state: &mut State<f32>,
    ids: &[u32],
    access: &Access,
) -> Vec<f32> {
    let mut ws = Workspace::default();
    model.forward(ops, params, state, ids, access, Logits::All, &mut ws).unwrap().to_vec()
}

#[test]
fn any_cut_of_a_stream_gives_the_same_bits() {
    let ids = tokens(330);
    for ops in instruction_sets() {
        for m in &models() {
            let mut whole = m.0.new_state();
            let expected = run(&ops, m, &mut whole, &ids, &Access::Learn);
            let mut rng = Rng::new(9, "cuts");
            for longest in [1, 7, 64, 200] {
                let (mut state, mut got, mut rest) = (m.0.new_state(), Vec::new(), ids.as_slice());
                while !rest.is_empty() {
                    let n = (1 + rng.bits() as usize % longest).min(rest.len());
                    got.extend(run(&ops, m, &mut state, &rest[..n], &Access::Learn));
                    rest = &rest[n..];
                }
                assert!(got == expected, "{:?} {:?}", ops.isa(), m.0.config().blocks[0].mixer);
                assert_eq!(state.hash(), whole.hash());
            }
        }
    }
}

#[test]
fn threads_inside_an_op_do_not_change_a_bit() {
    let ids = tokens(200);
    for m in &models() {
        let serial = run(&Cpu::inference().with_parallel(false), m, &mut m.0.new_state(), &ids, &Access::Learn);
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let ops = Cpu::inference().with_parallel(true);
            let parallel = pool.install(|| run(&ops, m, &mut m.0.new_state(), &ids, &Access::Learn));
            assert!(serial == parallel, "{threads} threads");
        }
    }
}

#[test]
fn a_change_at_a_token_leaves_everything_before_it_untouched() {
    let ids = tokens(150);
    for m in &models() {
        let ops = Cpu::inference();
        let before = run(&ops, m, &mut m.0.new_state(), &ids, &Access::Learn);
        for at in [0, 1, 64, 149] {
            let mut changed = ids.clone();
            changed[at] = (changed[at] + 1) % VOCAB as u32;
            let after = run(&ops, m, &mut m.0.new_state(), &changed, &Access::Learn);
            assert!(before[..at * VOCAB] == after[..at * VOCAB]);
            assert!(before[at * VOCAB..] != after[at * VOCAB..]);
        }
    }
}

fn lineage() -> Lineage {
    Lineage { base: "weights".into(), config: "config".into(), isa: Isa::best().name().into() }
}

#[test]
fn a_saved_state_continues_as_if_it_had_never_stopped() {
    let ids = tokens(200);
    for m in &models() {
        let ops = Cpu::inference();
        let mut state = m.0.new_state();
        run(&ops, m, &mut state, &ids[..111], &Access::Learn);
        let bytes = state.to_bytes(&lineage()).unwrap();
        let mut restored = State::from_bytes(m.0.state_layout().clone(), &lineage(), bytes.clone()).unwrap();
        assert_eq!(restored, state);
        let mut fork = state.clone();
        let expected = run(&ops, m, &mut state, &ids[111..], &Access::Learn);
        assert!(run(&ops, m, &mut restored, &ids[111..], &Access::Learn) == expected);
        assert!(run(&ops, m, &mut fork, &ids[111..], &Access::Learn) == expected);
        assert_eq!((restored.hash(), fork.hash()), (state.hash(), state.hash()));
    }
}

/// Before the first token, whichever way it came to be there, a state starts from what the weights say.
#[test]
fn a_reset_a_saved_and_a_forked_state_start_like_a_new_one() {
    let ids = tokens(40);
    for m in &models() {
        let ops = Cpu::inference();
        let mut new = m.0.new_state();
        let expected = run(&ops, m, &mut new, &ids, &Access::Learn);
        let mut reset = new.clone();
        reset.reset();
        assert_eq!(reset, m.0.new_state());
        let bytes = reset.to_bytes(&lineage()).unwrap();
        let restored = State::from_bytes(m.0.state_layout().clone(), &lineage(), bytes).unwrap();
        for mut state in [reset.clone(), reset, restored] {
            assert!(run(&ops, m, &mut state, &ids[..0], &Access::Learn).is_empty());
            // Continuum memories stand still while a state is only read.
            let still = m.0.state_layout().fast.is_empty();
            assert_eq!(run(&ops, m, &mut state, &ids, &Access::Read) == expected, still);
            assert!(run(&ops, m, &mut state, &ids[..1], &Access::Learn) == expected[..VOCAB]);
            assert!(run(&ops, m, &mut state, &ids[1..], &Access::Learn) == expected[VOCAB..]);
            assert_eq!(state.hash(), new.hash());
        }
    }
}

#[test]
fn a_frozen_memory_answers_from_its_start() {
    let ids = tokens(30);
    let of = |rule: &str| {
        let named = |m: &&(Model, Params<f32>)| m.0.memories().any(|(_, info)| info.rule.name() == rule);
        models().iter().position(|m| named(&m)).unwrap()
    };
    let (all, at) = (models(), of("titans_mlp"));
    let (m, ops) = (&all[at], Cpu::inference());
    let mut state = m.0.new_state();
    run(&ops, m, &mut state, &ids, &Access::Frozen(Parts::all()));
    let (_, info) = m.0.memories().next().unwrap();
    let start = m.0.params().specs.iter().find(|s| s.name == "blocks.0.mixer.start.W1").unwrap();
    let (head, tensor) = (info.state.len() / info.heads, start.range.len() / info.heads);
    for h in 0..info.heads {
        let held = &state.data[info.state.start + h * head..][..tensor];
        assert_eq!(held, &m.1.data[start.range.start + h * tensor..][..tensor]);
    }
}

#[test]
fn a_state_of_another_model_version_or_length_is_refused() {
    let m = &models()[0];
    let state: State<f32> = m.0.new_state();
    let bytes = state.to_bytes(&lineage()).unwrap();
    let read = |lineage: &Lineage, bytes: &[u8]| State::from_bytes(m.0.state_layout().clone(), lineage, bytes.to_vec());
    let other = Lineage { base: "others".into(), ..lineage() };
    assert!(read(&other, &bytes).unwrap_err().to_string().contains("belongs to another model"));
    for cut in [0, 7, 100, bytes.len() - 1] {
        assert!(read(&lineage(), &bytes[..cut]).is_err(), "{cut} bytes");
    }
    let at = bytes.windows(14).position(|w| w == b"hecate-state 1").unwrap();
    let mut newer = bytes.clone();
    newer[at + 13] = b'9';
    assert!(read(&lineage(), &newer).unwrap_err().to_string().contains("this build reads"));
    let mut broken = bytes.clone();
    let end = broken.len();
    broken[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(read(&lineage(), &broken).unwrap_err().to_string().contains("not finite"));
}

#[test]
fn access_says_what_is_written() {
    let ids = tokens(90);
    for m in models().iter().filter(|m| m.0.memories().next().is_some()) {
        let ops = Cpu::inference();
        let mut state = m.0.new_state();
        run(&ops, m, &mut state, &ids[..40], &Access::Learn);
        let start = state.clone();
        let memory = |s: &State<f32>, block: usize| {
            let info = m.0.memories().find(|(i, _)| *i == block).unwrap().1;
            s.data[info.state].to_vec()
        };
        let read = run(&ops, m, &mut state, &ids[40..], &Access::Read);
        assert_eq!(state, start, "reading leaves the state as it was");
        let mut learned = start.clone();
        let same = run(&ops, m, &mut learned, &ids[40..], &Access::Learn) == read;
        // While a state is only read, continuum memories stand still, and all others run as ever.
        let moves = !m.0.state_layout().fast.is_empty();
        assert!(same != moves, "reading computes what learning does");
        let mut frozen = start.clone();
        let cold = run(&ops, m, &mut frozen, &ids[40..], &Access::Frozen(Parts::all()));
        assert!(cold != read, "frozen memories answer differently");
        assert_eq!((memory(&frozen, 0), memory(&frozen, 1)), (memory(&start, 0), memory(&start, 1)));
        let mut half = start.clone();
        run(&ops, m, &mut half, &ids[40..], &Access::LearnOnly(Parts::blocks([1])));
        assert_eq!(memory(&half, 0), memory(&start, 0));
        assert_ne!(memory(&half, 1), memory(&start, 1));
        let added = |s: &State<f32>, block: usize| -> Vec<f32> {
            let own = |t: &&NamedTensor| t.name.starts_with(&format!("blocks.{block}."));
            let list = m.0.state_layout().fast_tensors();
            list.iter().filter(own).flat_map(|t| s.fast[t.runs[0].clone()].to_vec()).collect()
        };
        // What was open when the rights changed is learned from under those that it was taken with.
        let mut closed = start.clone();
        run(&ops, m, &mut closed, &ids[40..41], &Access::LearnOnly(Parts::blocks([])));
        assert_eq!((added(&frozen, 0), added(&frozen, 1)), (added(&closed, 0), added(&closed, 1)));
        assert_eq!(added(&half, 0), added(&closed, 0));
        assert!(!moves || added(&half, 1) != added(&closed, 1));
    }
}

/// Levels of a memory that must not write keep their bits, though they are due; in the first block, where nothing that
/// stands still changes what they take, the others get those of a call in which all write.
#[test]
fn access_says_which_levels_of_a_memory_write() {
    let ids = tokens(90);
    let all = models();
    let levelled: Vec<_> = all.iter().filter(|m| m.0.memories().any(|(_, info)| info.level == 2)).collect();
    assert!(!levelled.is_empty());
    for m in levelled {
        let (ops, mut start) = (Cpu::inference(), m.0.new_state());
        run(&ops, m, &mut start, &ids[..30], &Access::Learn);
        let mut learned = start.clone();
        let logits = run(&ops, m, &mut learned, &ids[30..], &Access::Learn);
        for (access, writes) in [
            (Access::LearnOnly(Parts::levels([1])), [false, true, false]),
            (Access::Frozen(Parts::levels([1])), [true, false, true]),
            (Access::Frozen(Parts::levels([0, 1])), [false, false, true]),
        ] {
            let mut state = start.clone();
            assert!(run(&ops, m, &mut state, &ids[30..], &access) != logits, "{access:?}");
            for (block, info) in m.0.memories() {
                let [now, start, learned] = [&state, &start, &learned].map(|s| &s.data[info.state.clone()]);
                let what = format!("block {block}, level {}: {access:?}", info.level);
                assert_eq!(now != start, writes[info.level], "{what}");
                assert!(!writes[info.level] || block > 0 || now == learned, "{what}");
            }
        }
    }
}

/// The printed form of `mac` sees tokens behind its own: it takes whole segments, and says so otherwise.
#[test]
fn the_printed_form_of_mac_leaks_and_refuses_to_go_token_by_token() {
    let attention = AttentionConfig { heads: 2, ..AttentionConfig::default() };
    let memory = MemoryConfig { heads: 2, ..MemoryConfig::default() };
    let mac =
        |causal| MacConfig { segment: 8, causal, attention: attention.clone(), memory: memory.clone(), persistent: 0 };
    let ids = tokens(16);
    let mut changed = ids.clone();
    changed[6] = (changed[6] + 1) % VOCAB as u32;
    for causal in [true, false] {
        let model = Model::new(&config(MixerConfig::Mac(mac(causal)))).unwrap();
        let params = model.params().init(1);
        let m = (model, params);
        let ops = Cpu::inference();
        let [a, b] = [&ids, &changed].map(|ids| run(&ops, &m, &mut m.0.new_state(), ids, &Access::Learn));
        assert_eq!(a[5 * VOCAB..6 * VOCAB] == b[5 * VOCAB..6 * VOCAB], causal, "token 5 and a change of token 6");
        let (mut state, mut ws) = (m.0.new_state(), Workspace::default());
        run(&ops, &m, &mut state, &ids[..3], &Access::Learn);
        let next = m.0.forward(&ops, &m.1, &mut state, &ids[3..4], &Access::Learn, Logits::Last, &mut ws);
        assert_eq!(next.is_ok(), causal);
        assert!(causal || next.unwrap_err().to_string().contains("whole segments of 8"));
    }
}

#[test]
fn generating_twice_is_generating_once() {
    for m in &models() {
        let draw = |state: &mut State<f32>, prompt: &[u32], n: usize| {
            let mut sampler = Sampler::new(&GenerationConfig { seed: 3, ..GenerationConfig::default() }).unwrap();
            let (mut out, mut ws) = (Vec::new(), Workspace::default());
            let mut each = |t| {
                out.push(t);
                ControlFlow::Continue(())
            };
            let (ops, learn) = (Cpu::inference(), Access::Learn);
            generate(&ops, &m.0, &m.1, state, prompt, &mut sampler, n, &learn, &mut ws, &mut each).unwrap();
            out
        };
        let (mut once, mut twice) = (m.0.new_state(), m.0.new_state());
        let expected = draw(&mut once, &[1, 2, 3], 200);
        let mut got = draw(&mut twice, &[1, 2, 3], 100);
        let bytes = twice.to_bytes(&lineage()).unwrap();
        let mut loaded = State::from_bytes(m.0.state_layout().clone(), &lineage(), bytes.clone()).unwrap();
        got.extend(draw(&mut loaded, &[], 100));
        assert_eq!(got, expected);
        assert_eq!(loaded.hash(), once.hash());
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_refused_before_anything_is_written() {
    let (model, params) = &models()[0];
    let mut state = model.new_state();
    let mut ws = Workspace::default();
    let ids = [1, VOCAB as u32];
    let error = model.forward(&Cpu::inference(), params, &mut state, &ids, &Access::Learn, Logits::All, &mut ws);
    assert!(error.unwrap_err().to_string().contains("outside the vocabulary"));
    assert_eq!(state, model.new_state());
}

#[test]
fn a_value_that_is_not_finite_is_an_error_that_names_its_place() {
    let beside = |m: &(Model, Params<f32>)| matches!(&m.0.config().blocks[0].mixer, MixerConfig::Mag(g) if g.memory.rule.name() == "titans");
    let (model, mut params) = models().into_iter().find(beside).unwrap();
    let spec = model.params().specs.iter().find(|s| s.name == "blocks.1.mixer.memory.v.weight").unwrap();
    params.data[spec.range.start] = f32::INFINITY;
    let (mut state, mut ws) = (model.new_state(), Workspace::default());
    let ops = Cpu::inference();
    let error =
        model.forward(&ops, &params, &mut state, &tokens(20), &Access::Learn, Logits::All, &mut ws).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("block 1") && text.contains("head 0") && text.contains("titans"), "{text}");
}

#[test]
fn counts_of_a_file_are_checked() {
    let channel = CmsConfig { replay: Some(Replay { size: 5, ..Replay::default() }), ..CmsConfig::default() };
    let model = Model::new(&with_channel(MixerConfig::None, ChannelConfig::Cms(channel))).unwrap();
    let lineage = Lineage { base: "b".into(), config: "c".into(), isa: "i".into() };
    let layout = model.state_layout();
    let counts = layout.fast.iter().filter(|spec| matches!(spec.content, Content::Count(_)));
    for spec in counts.clone() {
        let Content::Count(most) = spec.content else { unreachable!() };
        for (value, fits) in [(0.0, true), (0.5, false), (-1.0, false), (5.0, most >= 5), (1e7, most > 5)] {
            let mut state: State<f32> = model.new_state();
            state.fast[spec.range.start] = value;
            let read = State::from_bytes(layout.clone(), &lineage, state.to_bytes(&lineage).unwrap());
            assert_eq!(read.is_ok(), fits, "{} = {value}", spec.name);
            assert!(fits || read.unwrap_err().to_string().contains(&spec.name));
        }
    }
    assert!(counts.clone().any(|spec| spec.name.ends_with("replay.next")));
}
