//! The registry: every memory rule is one file here and one line in `rules!`.
//!
//! From that line a rule gets its config name, its dispatch, its conformance and golden tests, its bench row,
//! its row in `hecate rules` and its Python name.

pub(crate) mod matrix;
mod named;

use crate::erased::{self, Number};
use crate::error::{Error, Result};
use crate::kernel::{Cotangents, Kernel, KernelChoice, Scratch, Sequence};
use crate::rule::{About, Dims, Input, MemoryRule, StateTensor};
use crate::scalar::{Dual, Scalar};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

macro_rules! rules {
    ($($module:ident::$Rule:ident),* $(,)?) => {
        $(pub mod $module; pub use $module::$Rule;)*

        /// Any registered rule, with its configuration. In a config file: a name, or a table with `name`.
        #[derive(Clone, Debug, PartialEq)]
        pub enum AnyRule {
            $(#[doc = concat!("See [`", stringify!($Rule), "`].")] $Rule($Rule)),*
        }

        $(impl From<$Rule> for AnyRule {
            fn from(r: $Rule) -> Self { AnyRule::$Rule(r) }
        })*

        impl AnyRule {
            /// Names of the types of rules, in the order of the registry.
            #[cfg(test)]
            pub(crate) const TYPES: &'static [&'static str] = &[$($Rule::NAME),*];

            /// Every rule at its default configuration: the types of the registry, each followed by its presets.
            pub fn all() -> Vec<AnyRule> {
                let mut all = Vec::new();
                $(all.push(AnyRule::$Rule($Rule::default()));
                all.extend($Rule::presets().into_iter().map(AnyRule::$Rule));)*
                all
            }
            /// The settings of this rule, without its name.
            fn settings(&self) -> serde_json::Result<Value> {
                match self { $(AnyRule::$Rule(r) => serde_json::to_value(r)),* }
            }
            /// A rule of the same type and name with other settings.
            fn with_settings(&self, settings: Value) -> serde_json::Result<AnyRule> {
                match self { $(AnyRule::$Rule(r) => {
                    serde_json::from_value::<$Rule>(settings).map(|new| AnyRule::$Rule(new.named_like(r)))
                }),* }
            }
            /// See [`MemoryRule::name`].
            pub fn name(&self) -> &'static str {
                match self { $(AnyRule::$Rule(r) => r.name()),* }
            }
            /// See [`MemoryRule::about`].
            pub fn about(&self) -> About {
                match self { $(AnyRule::$Rule(r) => r.about()),* }
            }
            /// See [`MemoryRule::inputs`].
            pub fn inputs(&self) -> Vec<Input> {
                match self { $(AnyRule::$Rule(r) => r.inputs()),* }
            }
            /// See [`MemoryRule::state`].
            pub fn state(&self, d: Dims) -> Vec<StateTensor> {
                match self { $(AnyRule::$Rule(r) => r.state(d)),* }
            }
            /// See [`MemoryRule::flops`].
            pub fn flops(&self, d: Dims) -> f64 {
                match self { $(AnyRule::$Rule(r) => r.flops(d)),* }
            }
            /// See [`MemoryRule::check`].
            ///
            /// # Errors
            /// [`Error::Invalid`] with the reason.
            pub fn check(&self, d: Dims) -> Result<()> {
                match self { $(AnyRule::$Rule(r) => r.check(d)),* }
            }
            /// See [`MemoryRule::unbounded`].
            pub fn unbounded(&self) -> Option<&'static str> {
                match self { $(AnyRule::$Rule(r) => r.unbounded()),* }
            }
            /// See [`MemoryRule::brief`].
            pub fn brief(&self) -> AnyRule {
                match self { $(AnyRule::$Rule(r) => AnyRule::$Rule(r.brief())),* }
            }
            /// See [`MemoryRule::reads_first`].
            pub fn reads_first(&self) -> bool {
                match self { $(AnyRule::$Rule(r) => r.reads_first()),* }
            }
            /// See [`MemoryRule::positional`].
            pub fn positional(&self) -> bool {
                match self { $(AnyRule::$Rule(r) => r.positional()),* }
            }
            /// The rule without its type.
            // Inlined into another crate, it would compile every rule there once more; so would `Number::over`.
            #[inline(never)]
            pub fn erased(&self) -> &dyn erased::ErasedRule {
                match self { $(AnyRule::$Rule(r) => r),* }
            }
            /// The rule over one number type.
            pub(crate) fn over<F: Scalar>(&self) -> &dyn erased::Over<F> {
                match self { $(AnyRule::$Rule(r) => r),* }
            }
            /// Its kernels, and whether each can run here at this size.
            pub fn kernels(&self, d: Dims) -> Vec<KernelInfo> {
                match self { $(AnyRule::$Rule(r) => kernel_infos(r, d)),* }
            }
            /// Picks a kernel for sequences of about `tokens` tokens; `None` is the reference.
            ///
            /// # Errors
            /// [`Error::Kernel`] for a named kernel that does not exist or cannot run here.
            pub fn choose(&self, d: Dims, tokens: usize, choice: KernelChoice<'_>) -> Result<Option<usize>> {
                match self { $(AnyRule::$Rule(r) => choose(r, d, tokens, choice)),* }
            }
            /// Runs one head's sequence with the kernel of that index.
            pub(crate) fn kernel_forward(
                &self, kernel: usize, d: Dims, seq: Sequence<'_, f32>, state: &mut [f32], y: &mut [f32],
                saved: Option<&mut [f32]>, scratch: &mut Scratch,
            ) {
                match self {
                    $(AnyRule::$Rule(r) => ($Rule::KERNELS[kernel].forward)(r, d, seq, state, y, saved, scratch)),*
                }
            }
            /// Reads for one head's sequence with the kernel of that index; the state stays as it is.
            pub(crate) fn kernel_read(
                &self, kernel: usize, d: Dims, seq: Sequence<'_, f32>, state: &[f32], y: &mut [f32],
                scratch: &mut Scratch,
            ) {
                match self { $(AnyRule::$Rule(r) => ($Rule::KERNELS[kernel].read)(r, d, seq, state, y, scratch)),* }
            }
            /// The transpose along columns of the kernel of that index; false where it has none of its own.
            pub(crate) fn kernel_column(
                &self, kernel: usize, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch,
            ) -> bool {
                match self {
                    $(AnyRule::$Rule(r) => $Rule::KERNELS[kernel].column.map(|run| run(r, d, seq, ct, scratch)).is_some()),*
                }
            }
            /// Transpose of [`AnyRule::kernel_forward`].
            pub(crate) fn kernel_backward(
                &self, kernel: usize, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch,
            ) {
                match self { $(AnyRule::$Rule(r) => ($Rule::KERNELS[kernel].backward)(r, d, seq, ct, scratch)),* }
            }
        }
    };
}

rules! {
    linear_attention::LinearAttention,
    delta::Delta,
    gated_delta::GatedDelta,
    decay_delta::DecayDelta,
    titans::Titans,
    miras::Miras,
    paced::Paced,
    surprise_gated::SurpriseGated,
    oja::Oja,
    hgrn2::Hgrn2,
    rwkv7::Rwkv7,
    lattice::Lattice,
    trellis::Trellis,
    tnt::Tnt,
    self_modifying::SelfModifying,
}

macro_rules! numbers {
    ($($F:ty),*) => {$(
        impl Number for $F {
            #[inline(never)]
            fn over(rule: &AnyRule) -> &dyn erased::Over<$F> {
                rule.over()
            }
        }
    )*};
}
numbers!(f32, f64, Dual<f64>);

/// One kernel as a table row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Same bits for any cut.
    pub canonical: bool,
    /// Runs here, for this rule and size.
    pub available: bool,
}

fn kernel_infos<R: MemoryRule>(rule: &R, d: Dims) -> Vec<KernelInfo> {
    let info = |k: &Kernel<R>| KernelInfo {
        name: k.name,
        about: k.about,
        canonical: k.canonical,
        available: (k.is_available)(rule, d),
    };
    R::KERNELS.iter().map(info).collect()
}

/// Kernels are listed in the order of measured speed, so `Auto` is the first that can run here.
fn choose<R: MemoryRule>(rule: &R, d: Dims, _tokens: usize, choice: KernelChoice<'_>) -> Result<Option<usize>> {
    let usable = |k: &Kernel<R>| (k.is_available)(rule, d);
    match choice {
        KernelChoice::Reference => Ok(None),
        KernelChoice::Auto => Ok(R::KERNELS.iter().position(usable)),
        KernelChoice::Canonical => Ok(R::KERNELS.iter().position(|k| k.canonical && usable(k))),
        KernelChoice::Named("auto") => choose(rule, d, _tokens, KernelChoice::Auto),
        KernelChoice::Named("reference") => Ok(None),
        KernelChoice::Named(name) => {
            let at = R::KERNELS.iter().position(|k| k.name == name && usable(k));
            at.map(Some).ok_or_else(|| Error::Kernel {
                rule: rule.name(),
                kernel: name.to_string(),
                reason: format!(
                    "expected one of auto, reference{}",
                    R::KERNELS.iter().filter(|k| usable(k)).map(|k| format!(", {}", k.name)).collect::<String>()
                ),
            })
        }
    }
}

impl AnyRule {
    /// Names of all rules, in the order of [`AnyRule::all`].
    pub fn names() -> Vec<&'static str> {
        Self::all().iter().map(AnyRule::name).collect()
    }

    /// The rule called `name`, at its default configuration.
    ///
    /// # Errors
    /// [`Error::Unknown`] with the list of names.
    pub fn named(name: &str) -> Result<AnyRule> {
        Self::all().into_iter().find(|rule| rule.name() == name).ok_or_else(|| Error::Unknown {
            what: "rule",
            got: name.to_string(),
            known: Self::names().join(", "),
        })
    }

    /// See [`MemoryRule::write`].
    pub fn write<F: Number>(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
        F::over(self).write(d, pos, x, state);
    }
    /// See [`MemoryRule::read`].
    pub fn read<F: Number>(&self, d: Dims, pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
        F::over(self).read(d, pos, x, state, y);
    }
    /// See [`MemoryRule::step`].
    pub fn step<F: Number>(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F], y: &mut [F]) {
        F::over(self).step(d, pos, x, state, y);
    }
    /// See [`MemoryRule::step_backward`].
    pub fn step_backward<F: Number>(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        prev: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        F::over(self).step_backward(d, pos, x, prev, dy, dx, dstate);
    }

    /// Number of values in one head's state.
    pub fn state_len(&self, d: Dims) -> usize {
        self.state(d).iter().map(StateTensor::len).sum()
    }
}

/// A table: `name`, then every setting.
impl Serialize for AnyRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let settings = self.settings().map_err(serde::ser::Error::custom)?;
        named::with_name(self.name(), settings).serialize(serializer)
    }
}

/// A name, or a table with `name` and the settings that differ from that rule's.
impl<'de> Deserialize<'de> for AnyRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let (name, changes) = named::parts("rule", Value::deserialize(deserializer)?).map_err(D::Error::custom)?;
        let start = AnyRule::named(&name).map_err(D::Error::custom)?;
        let settings = named::changed(start.settings().map_err(D::Error::custom)?, changes);
        start.with_settings(settings).map_err(|e| D::Error::custom(format!("rule `{name}`: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_names_are_the_names_of_the_rules() {
        for rule in AnyRule::all() {
            let table = serde_json::to_value(&rule).unwrap();
            assert_eq!(table["name"], rule.name());
            assert_eq!(serde_json::from_value::<AnyRule>(table).unwrap(), rule);
            assert_eq!(serde_json::from_value::<AnyRule>(rule.name().into()).unwrap(), rule);
        }
    }

    #[test]
    fn a_misspelt_rule_is_refused_with_the_list() {
        for bad in [serde_json::json!("titan"), serde_json::json!({"name": "titan"})] {
            let error = serde_json::from_value::<AnyRule>(bad).unwrap_err().to_string();
            assert!(error.contains("titan`") && error.contains("titans"), "{error}");
        }
        let typo = serde_json::json!({"name": "titans", "retian": 1});
        assert!(serde_json::from_value::<AnyRule>(typo).unwrap_err().to_string().contains("retian"));
    }

    #[test]
    fn every_rule_file_has_a_line_in_the_registry() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/rules");
        for entry in std::fs::read_dir(dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let name = name.trim_end_matches(".rs");
            if !["mod", "matrix", "named"].contains(&name) {
                assert!(AnyRule::TYPES.contains(&name), "rules/{name}.rs has no line in rules!");
            }
        }
    }
}
