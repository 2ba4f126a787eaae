//! A grown model says what the old one said, and goes on from there.

use hecate_core::ops::Cpu;
use hecate_model::config::{
    Arrangement, AttentionConfig, BlockConfig, ChannelConfig, CmsConfig, MacConfig, MagConfig, MalConfig, MemoryConfig,
    MixerConfig,
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

#[test]
fn what_cannot_grow_is_refused_by_name() {
    let model = &models()[1];
    let params: Params<f32> = model.params().init(1);
    let error = grow(model, &params, Growth::Block(2), GrowthStart::Cloned).err().unwrap();
    assert!(error.to_string().contains("there is no block 2"), "{error}");
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
