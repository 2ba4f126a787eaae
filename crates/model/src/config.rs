//! What a model is: `config.json`, and the `[model]` part of a preset.
//!
//! Unknown keys and values are errors that list the known ones. Every default is in one `Default`, with its reason.

use crate::error::{Error, Result};
use hecate_core::ops::MlpKind;
use hecate_core::{Activation, AnyRule, Dims};
use serde::{Deserialize, Serialize};

/// Version of `config.json` and of the tensor names that follow from it.
pub const FORMAT: u32 = 1;

// Far above what is useful, and so small that products of sizes stay inside the range of an index.
const MAX_WIDTH: usize = 1 << 16;
const MAX_LENGTH: usize = 1 << 24;
const MAX_BLOCKS: usize = 4096;

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

/// A memory and what makes its inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// The rule: a name, or a table with `name` and its settings.
    pub rule: AnyRule,
    /// Independent memories.
    pub heads: usize,
    /// Width of keys and queries; `width / heads` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_width: Option<usize>,
    /// Width of values; `width / heads` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_width: Option<usize>,
    /// Taps of the short causal convolution on keys, values and queries; 0 leaves it out.
    pub conv: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        // Four taps, as in the models that the papers compare with.
        let rule = AnyRule::named("titans").expect("titans is registered");
        Self { rule, heads: 4, key_width: None, value_width: None, conv: 4 }
    }
}

/// Memory as a gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MagConfig {
    /// The attention branch, usually with a window.
    pub attention: AttentionConfig,
    /// The memory branch; `heads * value_width` must equal the attention's `heads * head_width`.
    pub memory: MemoryConfig,
}

impl Default for MagConfig {
    fn default() -> Self {
        // A quarter of the default context: beyond it only the memory carries.
        let attention = AttentionConfig { window: Some(64), ..AttentionConfig::default() };
        Self { attention, memory: MemoryConfig::default() }
    }
}

/// What works on each token alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ChannelConfig {
    /// A multi-layer perceptron.
    Mlp(MlpConfig),
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

impl MemoryConfig {
    /// Size of one head in a stream of `width`.
    pub fn dims(&self, width: usize) -> Dims {
        let share = width / self.heads.max(1);
        Dims::new(self.key_width.unwrap_or(share), self.value_width.unwrap_or(share))
    }

    fn check(&self, key: &str, width: usize) -> Result<()> {
        sized(&format!("{key}.heads"), self.heads, MAX_WIDTH)?;
        let given = self.key_width.is_some() && self.value_width.is_some();
        if !given && !width.is_multiple_of(self.heads) {
            let reason = format!("{} does not divide width = {width}; set key_width and value_width", self.heads);
            return Err(Error::config(format!("{key}.heads"), reason));
        }
        let dims = self.dims(width);
        sized(&format!("{key}.key_width"), dims.dk, MAX_WIDTH)?;
        sized(&format!("{key}.value_width"), dims.dv, MAX_WIDTH)?;
        if self.conv > 64 {
            return Err(Error::config(format!("{key}.conv"), "more than 64 taps is no short convolution"));
        }
        self.rule.check(dims).map_err(Error::core(format!("{key}.rule")))?;
        let shares = self.rule.inputs().iter().any(|i| i.activation == Activation::Share);
        if shares && self.heads.checked_mul(dims.dk) != Some(width) {
            let reason = format!(
                "rule `{}` takes the stream itself, a share per head: {} heads of {} are not width = {width}",
                self.rule.name(),
                self.heads,
                dims.dk
            );
            return Err(Error::config(format!("{key}.heads"), reason));
        }
        Ok(())
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
    fn check(&self, key: &str, width: usize) -> Result<()> {
        match &self.mixer {
            MixerConfig::Attention(a) => a.check(&format!("{key}.mixer"), width)?,
            MixerConfig::Memory(m) => m.check(&format!("{key}.mixer"), width)?,
            MixerConfig::Mag(g) => {
                g.attention.check(&format!("{key}.mixer.attention"), width)?;
                g.memory.check(&format!("{key}.mixer.memory"), width)?;
                let a = g.attention.heads * g.attention.head_width(width);
                let m = g.memory.heads * g.memory.dims(width).dv;
                if a != m {
                    let reason = format!("the memory gives {m} values a token, attention {a}: they must agree");
                    return Err(Error::config(format!("{key}.mixer.memory.value_width"), reason));
                }
            }
        }
        if let ChannelConfig::Mlp(mlp) = &self.channel {
            sized(&format!("{key}.channel.hidden"), mlp.hidden(width), 16 * MAX_WIDTH)?;
        }
        Ok(())
    }
}

fn sized(key: &str, n: usize, most: usize) -> Result<()> {
    match n {
        0 => Err(Error::config(key, "must be at least 1")),
        n if n > most => Err(Error::config(key, format!("{n} is more than this build allows, which is {most}"))),
        _ => Ok(()),
    }
}
