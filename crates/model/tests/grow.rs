//! A grown model says what the old one said, and goes on from there.

use hecate_core::AnyRule;
use hecate_core::ops::Cpu;
use hecate_model::config::{
    Arrangement, AttentionConfig, BlockConfig, ChannelConfig, CmsConfig, CombineConfig, LevelConfig, MacConfig,
    MagConfig, MalConfig, MemoryConfig, MixerConfig,
};
use hecate_model::{Access, Growth, GrowthStart, Logits, Model, ModelConfig, Params, Tape, Workspace, grow};

const IDS: [u32; 60] = {
    let (mut ids, mut i) = ([0; 60], 0);
    while i < 60 {
        ids[i] = (i * i / 3 + i) as u32 % 11;
        i += 1;
    }
    ids
};

fn logits(model: &Model, params: &Params<f32>) -> Vec<f32> {
    let (mut state, mut ws) = (model.new_state(), Workspace::default());
    let read = Access::Read;
    model.forward(&Cpu::inference(), params, &mut state, &IDS, &read, Logits::All, &mut ws).unwrap().to_vec()
}

fn models() -> Vec<Model> {
    let memory = MemoryConfig { heads: 2, ..MemoryConfig::default() };
    let attention = AttentionConfig { heads: 2, window: Some(9), ..AttentionConfig::default() };
    let whole = AttentionConfig { window: None, ..attention.clone() };
    let mixers = [
        MixerConfig::Attention(attention.clone()),
        MixerConfig::Memory(memory.clone()),
        MixerConfig::Mag(MagConfig { attention: attention.clone(), memory: memory.clone(), persistent: 2 }),
        MixerConfig::Mal(MalConfig { attention, memory: memory.clone(), persistent: 2 }),
        MixerConfig::Mac(MacConfig { segment: 8, attention: whole, memory, persistent: 2, causal: true }),
        MixerConfig::None,
    ];
    let cms = |arrangement| ChannelConfig::Cms(CmsConfig { hidden: Some(16), arrangement, ..CmsConfig::default() });
    let channels = [
        ChannelConfig::default(),
        cms(Arrangement::Sequential),
        cms(Arrangement::Independent),
        cms(Arrangement::Nested),
    ];
    let build = |(i, mixer): (usize, &MixerConfig)| {
        let (mixer, channel) = (mixer.clone(), channels[i % channels.len()].clone());
        let blocks = vec![BlockConfig { repeat: 2, mixer, channel, ..BlockConfig::default() }];
        Model::new(&ModelConfig { vocab: 11, width: 16, context: 100, blocks, ..ModelConfig::default() }).unwrap()
    };
    mixers.iter().enumerate().map(build).collect()
}

#[test]
fn a_grown_model_says_what_the_old_one_said_and_learns_with_all_of_itself() {
    for model in models() {
        let params: Params<f32> = model.params().init(1);
        let before = logits(&model, &params);
        for growth in [Growth::Block(0), Growth::Block(1), Growth::Level(4), Growth::Level(64), Growth::Level(5000)] {
            for start in [GrowthStart::Random(7), GrowthStart::Cloned] {
                let (grown, more) = grow(&model, &params, growth, start).unwrap();
                let what = format!("{growth:?} {start:?} of {:?}", model.config().blocks[0]);
                assert!(grown.params().count() > model.params().count(), "{what}");
                assert!(logits(&grown, &more) == before, "{what}");
                let n = IDS.len() - 1;
                let (mut losses, mut grads) = (vec![0.0; n], vec![0.0; grown.params().len]);
                let (x, y, state) = (&IDS[..n], &IDS[1..], &mut grown.new_state());
                grown
                    .train(&Cpu::training(), &more, state, x, y, 1.0, &mut losses, &mut grads, &mut Tape::default())
                    .unwrap();
                // What leads to the stream is alive, so that everything behind it is after one step.
                for spec in grown.params().specs.iter().filter(|s| more.data[s.range.clone()].iter().all(|x| *x == 0.0))
                {
                    assert!(grads[spec.range.clone()].iter().any(|g| *g != 0.0), "{what}: `{}` is dead", spec.name);
                }
            }
        }
    }
}

/// Every mixer with a memory, of one level and of several, under every way to add them up.
fn memories() -> Vec<Model> {
    let level = |rule: Option<&str>, period| LevelConfig { rule: rule.map(|r| AnyRule::named(r).unwrap()), period };
    let one = MemoryConfig { heads: 2, ..MemoryConfig::default() };
    let several = |n: usize, combine| {
        let all = [level(None, None), level(Some("titans_mlp"), Some(3)), level(None, Some(7)), level(None, None)];
        MemoryConfig { levels: all[..n].to_vec(), combine, ..one.clone() }
    };
    let attention = AttentionConfig { heads: 2, window: Some(9), ..AttentionConfig::default() };
    let whole = AttentionConfig { window: None, ..attention.clone() };
    let mut out = Vec::new();
    for memory in [
        one.clone(),
        several(1, CombineConfig::Learned),
        several(2, CombineConfig::Scaled),
        several(3, CombineConfig::Scaled),
        several(4, CombineConfig::Sum),
        several(3, CombineConfig::Learned),
    ] {
        let (attention, m) = (attention.clone(), memory.clone());
        let mixers = vec![
            MixerConfig::Memory(memory.clone()),
            MixerConfig::Mag(MagConfig { attention: attention.clone(), memory: memory.clone(), persistent: 2 }),
            MixerConfig::Mal(MalConfig { attention, memory, persistent: 2 }),
            MixerConfig::Mac(MacConfig {
                segment: 8,
                attention: whole.clone(),
                memory: m,
                persistent: 2,
                causal: true,
            }),
            MixerConfig::None,
        ];
        let blocks = mixers.into_iter().map(|mixer| BlockConfig { repeat: 1, mixer, ..BlockConfig::default() });
        let config =
            ModelConfig { vocab: 11, width: 16, context: 100, blocks: blocks.collect(), ..ModelConfig::default() };
        out.push(Model::new(&config).unwrap());
    }
    out
}

/// The gradients of the model over all tokens.
fn gradients(model: &Model, params: &Params<f32>) -> Vec<f32> {
    let n = IDS.len() - 1;
    let (mut losses, mut grads) = (vec![0.0; n], vec![0.0; model.params().len]);
    let (x, y, state) = (&IDS[..n], &IDS[1..], &mut model.new_state());
    model.train(&Cpu::training(), params, state, x, y, 1.0, &mut losses, &mut grads, &mut Tape::default()).unwrap();
    grads
}

#[test]
fn a_level_of_the_memories_changes_nothing_until_its_weight_has_moved() {
    for model in memories() {
        let mut params: Params<f32> = model.params().init(1);
        // Weights that have been learned.
        for spec in model.params().specs.iter().filter(|s| s.name.ends_with("level_weights")) {
            params.data[spec.range.clone()].iter_mut().zip(1_u8..).for_each(|(w, i)| *w = 0.3 * f32::from(i));
        }
        let before = logits(&model, &params);
        for period in [1, 2, 8, 50] {
            for start in [GrowthStart::Random(7), GrowthStart::Cloned] {
                let (grown, mut more) = grow(&model, &params, Growth::MemoryLevel(period), start).unwrap();
                let what = format!("{period} {start:?} of {:?}", model.config().blocks[0]);
                assert!(logits(&grown, &more) == before, "{what}");
                assert_eq!(grown.memories().count(), model.memories().count() + 4, "{what}");
                let grads = gradients(&grown, &more);
                let mut new = Vec::new();
                for spec in grown.params().specs.iter().filter(|s| s.name.ends_with("level_weights")) {
                    let weights = &mut more.data[spec.range.clone()];
                    let at = weights.iter().position(|w| *w == 0.0).unwrap();
                    let slope = grads[spec.range.start + at];
                    assert!(slope != 0.0, "{what}: `{}` is dead", spec.name);
                    weights[at] -= 0.1 * slope.signum();
                    new.push(spec.name.replace("level_weights", &format!("levels.{at}.")));
                }
                assert_eq!(new.len(), 4, "{what}");
                assert!(logits(&grown, &more) != before, "{what}");
                let grads = gradients(&grown, &more);
                for spec in grown.params().specs.iter().filter(|s| new.iter().any(|n| s.name.starts_with(n))) {
                    assert!(grads[spec.range.clone()].iter().any(|g| *g != 0.0), "{what}: `{}` is dead", spec.name);
                }
            }
        }
    }
}

#[test]
fn a_level_starts_from_the_one_beside_it_and_levels_keep_their_numbers() {
    let model = &memories()[0];
    let params: Params<f32> = model.params().init(1);
    let value = |model: &Model, params: &Params<f32>, name: &str| {
        let spec = model.params().specs.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no `{name}`"));
        params.data[spec.range.clone()].to_vec()
    };
    let (grown, more) = grow(model, &params, Growth::MemoryLevel(8), GrowthStart::Cloned).unwrap();
    let query = value(model, &params, "blocks.0.mixer.q.weight");
    for level in [0, 1] {
        assert_eq!(value(&grown, &more, &format!("blocks.0.mixer.levels.{level}.q.weight")), query);
    }
    assert_eq!(value(&grown, &more, "blocks.0.mixer.level_weights"), [1.0, 0.0]);
    // One between both, drawn anew.
    let (grown, more) = grow(&grown, &more, Growth::MemoryLevel(4), GrowthStart::Random(3)).unwrap();
    let periods: Vec<u64> = match &grown.config().blocks[0].mixer {
        MixerConfig::Memory(memory) => memory.rules().into_iter().map(|(_, period)| period).collect(),
        other => panic!("{other:?}"),
    };
    assert_eq!(periods, [1, 4, 8]);
    assert_eq!(value(&grown, &more, "blocks.0.mixer.level_weights"), [1.0, 0.0, 0.0]);
    let queries = [0, 1, 2].map(|level| value(&grown, &more, &format!("blocks.0.mixer.levels.{level}.q.weight")));
    assert!(queries[0] == query && queries[1] != query && queries[2] == query);
    // What of levels beyond two was scaled is a weight of that size.
    let (grown, more) =
        grow(&memories()[3], &memories()[3].params().init(1), Growth::MemoryLevel(8), GrowthStart::Cloned).unwrap();
    let third = 3.0_f64.powf(-0.5) as f32;
    assert_eq!(value(&grown, &more, "blocks.1.mixer.memory.level_weights"), [third, third, third, 0.0]);
}

#[test]
fn what_cannot_grow_is_refused_by_name() {
    let model = &models()[1];
    let params: Params<f32> = model.params().init(1);
    let error = grow(model, &params, Growth::Block(2), GrowthStart::Cloned).err().unwrap();
    assert!(error.to_string().contains("there is no block 2"), "{error}");
    let bare = &models()[0];
    let error = grow(bare, &bare.params().init(1), Growth::MemoryLevel(8), GrowthStart::Cloned).err().unwrap();
    assert!(error.to_string().contains("no block has a mixer with a memory"), "{error}");
    let mut config = model.config().clone();
    let headwise = CmsConfig { hidden: Some(18), arrangement: Arrangement::Headwise, ..CmsConfig::default() };
    for (channel, reason) in
        [(ChannelConfig::None, "no block has a channel"), (ChannelConfig::Cms(headwise), "headwise")]
    {
        config.blocks.iter_mut().for_each(|block| block.channel = channel.clone());
        let model = Model::new(&config).unwrap();
        let error = grow(&model, &model.params().init(1), Growth::Level(8), GrowthStart::Cloned).err().unwrap();
        assert!(error.to_string().contains(reason), "{error}");
    }
}
