//! What a model is: `config.json`, and the `[model]` part of a preset.
//!
//! Unknown keys and values are errors that list the known ones. Every default is in one `Default`, with its reason.

mod cms;
mod gate;
mod memory;

pub use cms::{Arrangement, CmsConfig, CmsLevel, Consolidation, Meta, Objective, Reads, Reduction, Replay};
pub use gate::{Surprise, SurpriseGate};
pub use memory::{CombineConfig, LevelConfig, MemoryConfig};

use crate::error::{Error, Result};
use hecate_core::ops::MlpKind;
use serde::{Deserialize, Serialize};

/// Version of `config.json` and of the tensor names that follow from it.
pub const FORMAT: u32 = 1;

// Far above what is useful, and so small that products of sizes stay inside the range of an index.
pub(crate) const MAX_WIDTH: usize = 1 << 16;
pub(crate) const MAX_LENGTH: usize = 1 << 24;
const MAX_BLOCKS: usize = 4096;
const MAX_LEVELS: usize = 16;
const MAX_SEGMENT: usize = 1 << 16;
const MAX_PERSISTENT: usize = 1 << 12;

/// A whole model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Always `hecate`.
    pub model_type: String,
    /// Version of this file.
    pub format: u32,
    /// Number of tokens that the model knows. 256: bytes.
    pub vocab: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Training sequence length in tokens; recorded, because slower memory levels are defined by it.
    pub context: usize,
    /// Use the embedding as the head too.
    pub tie_embeddings: bool,
    /// The blocks, first to last.
    pub blocks: Vec<BlockConfig>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            model_type: "hecate".into(),
            format: FORMAT,
            vocab: 256,
            width: 128,
            context: 256,
            tie_embeddings: false,
            blocks: vec![BlockConfig { repeat: 2, ..BlockConfig::default() }],
        }
    }
}

/// One block: a mixer and a channel part, each behind a norm, each added to the stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockConfig {
    /// How many such blocks stand in a row.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub repeat: usize,
    /// Where the norms of its parts stand.
    #[serde(default, skip_serializing_if = "is_pre")]
    pub norm: NormConfig,
    /// What mixes tokens.
    pub mixer: MixerConfig,
    /// What works on each token alone.
    #[serde(default)]
    pub channel: ChannelConfig,
}

fn one() -> usize {
    1
}
fn is_one(n: &usize) -> bool {
    *n == 1
}

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormConfig {
    /// Before each part: `x + f(norm(x))`.
    #[default]
    Pre,
    /// After each part: `norm(x + f(x))`.
    Post,
}

fn is_pre(norm: &NormConfig) -> bool {
    *norm == NormConfig::Pre
}

/// What mixes tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MixerConfig {
    /// Causal softmax attention, full or over a window.
    Attention(AttentionConfig),
    /// A memory that learns while it runs.
    Memory(MemoryConfig),
    /// Memory as a gate: `rms(attention) * sigmoid(rms(memory))` [Titans v1 eq.28].
    Mag(MagConfig),
    /// Memory as a layer: a memory, then attention over what it gives [Titans v1 eq.29].
    Mal(MalConfig),
    /// Memory as context: attention inside segments, memory from one to the next [Titans v1 eq.21].
    Mac(MacConfig),
    /// Nothing.
    None,
}

impl Default for MixerConfig {
    fn default() -> Self {
        MixerConfig::Mag(MagConfig::default())
    }
}

/// Attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttentionConfig {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`; as many as `heads` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Width of a head; `width / heads` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_width: Option<usize>,
    /// Keys that a query sees, itself included; `max_positions` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Keys that attention without a window keeps: what bounds the state.
    pub max_positions: usize,
    /// Base of the rotary angles [RoPE v5 sec.3.2].
    pub rope_base: f64,
}

impl Default for AttentionConfig {
    fn default() -> Self {
        Self { heads: 4, kv_heads: None, head_width: None, window: None, max_positions: 2048, rope_base: 10_000.0 }
    }
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Memory as a gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MagConfig {
    /// The attention branch, usually with a window.
    pub attention: AttentionConfig,
    /// The memory branch; `heads * value_width` must equal the attention's `heads * head_width`.
    pub memory: MemoryConfig,
    /// Learned rows that every query sees, whatever the window, and that the memory takes before the first token.
    #[serde(skip_serializing_if = "is_zero")]
    pub persistent: usize,
}

impl Default for MagConfig {
    fn default() -> Self {
        // A quarter of the default context: beyond it only the memory carries.
        let attention = AttentionConfig { window: Some(64), ..AttentionConfig::default() };
        Self { attention, memory: MemoryConfig::default(), persistent: 0 }
    }
}

/// Memory as a layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MalConfig {
    /// The memory, which comes first.
    pub memory: MemoryConfig,
    /// Attention over what the memory gives, usually with a window.
    pub attention: AttentionConfig,
    /// Learned rows before the first token.
    #[serde(skip_serializing_if = "is_zero")]
    pub persistent: usize,
}

/// Memory as context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MacConfig {
    /// Tokens of a segment.
    pub segment: usize,
    /// A token sees the slots up to its own and reads the memory after its own write. `false` is the printed form, which
    /// sees tokens behind its own: for encoders and classifiers that are given whole segments.
    pub causal: bool,
    /// Attention inside a segment; it has no window. `heads * head_width` is the width of the stream.
    pub attention: AttentionConfig,
    /// The memory; `heads * value_width` is the width of the stream.
    pub memory: MemoryConfig,
    /// Learned rows that stand in every segment and are never written.
    pub persistent: usize,
}

impl Default for MacConfig {
    fn default() -> Self {
        // Segments as long as the default window of `mag`, and the number of rows of [Titans v1 sec.3.1]'s first user.
        let (attention, memory) = (AttentionConfig::default(), MemoryConfig::default());
        Self { segment: 64, causal: true, attention, memory, persistent: 4 }
    }
}

impl MacConfig {
    /// The attention, which sees all rows of a segment.
    pub(crate) fn attention_over(&self, rows: usize) -> AttentionConfig {
        AttentionConfig { window: Some(rows), ..self.attention.clone() }
    }
}

/// What works on each token alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ChannelConfig {
    /// A multi-layer perceptron.
    Mlp(MlpConfig),
    /// Perceptrons whose weights a sequence changes, each at its own pace [NestedLearning v1 eq.71].
    Cms(CmsConfig),
    /// Nothing.
    None,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        ChannelConfig::Mlp(MlpConfig::default())
    }
}

/// A multi-layer perceptron.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MlpConfig {
    /// Hidden width; where absent `8/3 width` for gated (rounded to 16), `4 width` for gelu: equal parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// The non-linearity.
    pub kind: MlpKindConfig,
}

/// Names of [`MlpKind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MlpKindConfig {
    /// `silu(a) * b` [SwiGLU v1 eq.5].
    #[default]
    Gated,
    /// GELU in its tanh form.
    Gelu,
}

impl From<MlpKindConfig> for MlpKind {
    fn from(kind: MlpKindConfig) -> Self {
        match kind {
            MlpKindConfig::Gated => MlpKind::Gated,
            MlpKindConfig::Gelu => MlpKind::Gelu,
        }
    }
}

impl MlpConfig {
    /// Hidden width in a stream of `width`.
    pub fn hidden(&self, width: usize) -> usize {
        self.hidden.unwrap_or(match self.kind {
            MlpKindConfig::Gated => (8 * width / 3).next_multiple_of(16),
            MlpKindConfig::Gelu => 4 * width,
        })
    }
}

impl AttentionConfig {
    /// Width of a head in a stream of `width`.
    pub fn head_width(&self, width: usize) -> usize {
        self.head_width.unwrap_or(width / self.heads.max(1))
    }
    /// Keys that a query sees.
    pub fn window(&self) -> usize {
        self.window.unwrap_or(self.max_positions)
    }

    fn check(&self, key: &str, width: usize) -> Result<()> {
        sized(&format!("{key}.heads"), self.heads, MAX_WIDTH)?;
        sized(&format!("{key}.window"), self.window(), MAX_LENGTH)?;
        sized(&format!("{key}.max_positions"), self.max_positions, MAX_LENGTH)?;
        let kv = self.kv_heads.unwrap_or(self.heads);
        if kv == 0 || !self.heads.is_multiple_of(kv) {
            return Err(Error::config(
                format!("{key}.kv_heads"),
                format!("{kv} does not divide heads = {}", self.heads),
            ));
        }
        if self.head_width.is_none() && !width.is_multiple_of(self.heads) {
            let reason = format!("{} does not divide width = {width}; set head_width", self.heads);
            return Err(Error::config(format!("{key}.heads"), reason));
        }
        let head = self.head_width(width);
        if head == 0 || head % 2 == 1 {
            return Err(Error::config(format!("{key}.head_width"), format!("{head} is not a positive even number")));
        }
        sized(&format!("{key}.head_width"), head, MAX_WIDTH)?;
        if !(self.rope_base.is_finite() && self.rope_base > 1.0) {
            return Err(Error::config(format!("{key}.rope_base"), "must be a number above 1"));
        }
        Ok(())
    }
}

impl MacConfig {
    fn check(&self, key: &str, width: usize) -> Result<()> {
        sized(&format!("{key}.segment"), self.segment, MAX_SEGMENT)?;
        check_persistent(key, self.persistent)?;
        if self.attention.window.is_some() {
            let reason = "attention in mac sees its segment: set `segment`, and no window";
            return Err(Error::config(format!("{key}.attention.window"), reason));
        }
        self.attention.check(&format!("{key}.attention"), width)?;
        self.memory.check_part(&format!("{key}.memory"), width)?;
        let a = self.attention.heads * self.attention.head_width(width);
        let m = self.memory.heads * self.memory.dims(width).dv;
        for (part, inner) in [("attention.head_width", a), ("memory.value_width", m)] {
            if inner != width {
                let reason =
                    format!("its heads give {inner} values a token, the stream of mac has {width}: must agree");
                return Err(Error::config(format!("{key}.{part}"), reason));
            }
        }
        Ok(())
    }
}

fn check_persistent(key: &str, count: usize) -> Result<()> {
    match count {
        0 => Ok(()),
        n => sized(&format!("{key}.persistent"), n, MAX_PERSISTENT),
    }
}

impl ModelConfig {
    /// The blocks with `repeat` written out.
    pub fn expanded(&self) -> Vec<BlockConfig> {
        let copies = |b: &BlockConfig| vec![BlockConfig { repeat: 1, ..b.clone() }; b.repeat];
        self.blocks.iter().flat_map(copies).collect()
    }

    /// Refuses what cannot be built, naming the key.
    ///
    /// # Errors
    /// [`Error::Config`], or [`Error::Core`] where a rule refuses.
    pub fn check(&self) -> Result<()> {
        if self.model_type != "hecate" {
            return Err(Error::config("model_type", format!("`{}` is not `hecate`", self.model_type)));
        }
        if self.format != FORMAT {
            let reason = format!("version {} cannot be read, this build reads {FORMAT}", self.format);
            return Err(Error::config("format", reason));
        }
        sized("vocab", self.vocab, MAX_LENGTH)?;
        sized("width", self.width, MAX_WIDTH)?;
        sized("context", self.context, MAX_LENGTH)?;
        self.check_blocks()?;
        cms::check_together(&self.expanded())
    }

    /// The part of [`ModelConfig::check`] that is about blocks alone.
    pub(crate) fn check_blocks(&self) -> Result<()> {
        // Counted before they are written out.
        match self.blocks.iter().fold(0, |n: usize, b| n.saturating_add(b.repeat)) {
            0 => return Err(Error::config("blocks", "a model has at least one block")),
            n => sized("blocks", n, MAX_BLOCKS)?,
        }
        for (i, block) in self.expanded().iter().enumerate() {
            block.check(&format!("blocks.{i}"), self.width)?;
        }
        Ok(())
    }
}

impl BlockConfig {
    /// Whether a token sees tokens behind it: then losses say nothing of prediction, and whole segments must come at once.
    pub fn sees_ahead(&self) -> bool {
        matches!(self.mixer, MixerConfig::Mac(MacConfig { causal: false, .. }))
    }

    fn check(&self, key: &str, width: usize) -> Result<()> {
        match &self.mixer {
            MixerConfig::Attention(a) => a.check(&format!("{key}.mixer"), width)?,
            MixerConfig::Memory(m) => m.check(&format!("{key}.mixer"), width)?,
            MixerConfig::Mag(g) => {
                g.attention.check(&format!("{key}.mixer.attention"), width)?;
                g.memory.check_part(&format!("{key}.mixer.memory"), width)?;
                check_persistent(&format!("{key}.mixer"), g.persistent)?;
                let a = g.attention.heads * g.attention.head_width(width);
                let m = g.memory.heads * g.memory.dims(width).dv;
                if a != m {
                    let reason = format!("the memory gives {m} values a token, attention {a}: they must agree");
                    return Err(Error::config(format!("{key}.mixer.memory.value_width"), reason));
                }
            }
            MixerConfig::Mal(l) => {
                l.attention.check(&format!("{key}.mixer.attention"), width)?;
                l.memory.check_part(&format!("{key}.mixer.memory"), width)?;
                check_persistent(&format!("{key}.mixer"), l.persistent)?;
            }
            MixerConfig::Mac(c) => c.check(&format!("{key}.mixer"), width)?,
            MixerConfig::None => {}
        }
        let nothing = matches!((&self.mixer, &self.channel), (MixerConfig::None, ChannelConfig::None));
        if nothing {
            return Err(Error::config(key, "a block with neither mixer nor channel does nothing"));
        }
        match &self.channel {
            ChannelConfig::Mlp(mlp) => sized(&format!("{key}.channel.hidden"), mlp.hidden(width), 16 * MAX_WIDTH),
            ChannelConfig::Cms(cms) => cms.check(&format!("{key}.channel"), width),
            ChannelConfig::None => Ok(()),
        }
    }
}

pub(crate) fn sized(key: &str, n: usize, most: usize) -> Result<()> {
    match n {
        0 => Err(Error::config(key, "must be at least 1")),
        n if n > most => Err(Error::config(key, format!("{n} is more than this build allows, which is {most}"))),
        _ => Ok(()),
    }
}
