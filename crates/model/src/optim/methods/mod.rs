//! The list of optimizers: one file each, one line each.
//!
//! From its line an optimizer gets its name in configs, its dispatch, its row in `hecate optimizers` and the tests that
//! walk the list: golden trajectories, saved and resumed bits, threads, live settings, descent.

use super::rest::Rest;
use super::step::{About, Optimizer, Shape, StateSpec, Step};
use crate::error::Result;
use hecate_core::ops::Ops;
use serde::{Deserialize, Serialize};

macro_rules! optimizers {
    ($($name:literal => $module:ident::$Method:ident),* $(,)?) => {
        $(mod $module; pub use $module::$Method;)*

        /// Any optimizer with its settings. In a config: a table with `name` and the settings that differ from the
        /// defaults.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "name")]
        pub enum AnyOptimizer {
            $(#[doc = concat!("See [`", stringify!($Method), "`].")] #[serde(rename = $name)] $Method($Method)),*
        }

        impl AnyOptimizer {
            /// Every optimizer at its default settings, in the order of the list.
            pub fn all() -> Vec<Self> {
                vec![$(Self::$Method($Method::default())),*]
            }
            /// Its name in configs.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$Method(_) => $name),* }
            }
            /// See [`Optimizer::about`].
            pub fn about(&self) -> About {
                match self { $(Self::$Method(o) => o.about()),* }
            }
            /// See [`Optimizer::check`].
            ///
            /// # Errors
            /// [`crate::Error::Config`] naming the key.
            pub fn check(&self) -> Result<()> {
                match self { $(Self::$Method(o) => o.check()),* }
            }
            /// See [`Optimizer::rest`].
            pub fn rest(&self) -> Option<&Rest> {
                match self { $(Self::$Method(o) => o.rest()),* }
            }
            /// See [`Optimizer::needs_inputs`].
            pub fn needs_inputs(&self) -> bool {
                match self { $(Self::$Method(o) => o.needs_inputs()),* }
            }
            /// See [`Optimizer::state`].
            pub fn state(&self, s: Shape) -> Vec<StateSpec> {
                match self { $(Self::$Method(o) => o.state(s)),* }
            }
            /// See [`Optimizer::scratch`].
            pub fn scratch(&self, s: Shape) -> usize {
                match self { $(Self::$Method(o) => o.scratch(s)),* }
            }
            /// See [`Optimizer::step`].
            pub fn step<O: Ops>(&self, at: &Step<'_, O>, p: &mut [O::F], g: &[O::F], state: &mut [&mut [O::F]]) {
                match self { $(Self::$Method(o) => o.step(at, p, g, state)),* }
            }
        }

        #[cfg(test)]
        const FILES: &[(&str, &str)] = &[$((stringify!($module), $name)),*];
    };
}

optimizers! {
    "sgd" => sgd::Sgd,
    "adamw" => adamw::AdamW,
    "muon" => muon::Muon,
    "adamuon" => adamuon::AdaMuon,
    "m3" => m3::M3,
    "dgd" => dgd::Dgd,
    "momentum" => momentum::Momentum,
    "delta_momentum" => delta_momentum::DeltaMomentum,
    "deep_momentum" => deep_momentum::DeepMomentum,
    "generalised_momentum" => generalised_momentum::GeneralisedMomentum,
    "ggd" => ggd::Ggd,
}

pub use deep_momentum::{Output as DeepOutput, Target as DeepTarget};
pub use delta_momentum::Form as DeltaForm;
pub use dgd::Form as DgdForm;
pub use generalised_momentum::Level;
pub use ggd::{Bias, Value};
pub use m3::Form as M3Form;
pub use muon::Scale;

impl Default for AnyOptimizer {
    fn default() -> Self {
        Self::AdamW(AdamW::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_a_line_in_the_list_and_is_named_as_in_configs() {
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/optim/methods")).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            let name = file.trim_end_matches(".rs");
            assert!(name == "mod" || FILES.contains(&(name, name)), "{file} has no line in optimizers!");
        }
        assert!(FILES.iter().all(|(file, name)| file == name));
    }

    #[test]
    fn configs_name_optimizers_and_refuse_what_they_do_not_know() {
        for optimizer in AnyOptimizer::all() {
            let table = serde_json::to_value(&optimizer).unwrap();
            assert_eq!(table["name"], optimizer.name());
            assert_eq!(serde_json::from_value::<AnyOptimizer>(table.clone()).unwrap(), optimizer);
            let alone = serde_json::json!({"name": optimizer.name()});
            assert_eq!(serde_json::from_value::<AnyOptimizer>(alone).unwrap(), optimizer);
            let mut typo = table;
            typo["momentun"] = serde_json::json!(0.5);
            let error = serde_json::from_value::<AnyOptimizer>(typo).unwrap_err().to_string();
            assert!(error.contains("momentun") && error.contains("expected one of"), "{error}");
            optimizer.check().unwrap();
        }
        let error = serde_json::from_value::<AnyOptimizer>(serde_json::json!({"name": "muno"})).unwrap_err();
        assert!(error.to_string().contains("`muno`") && error.to_string().contains("`muon`"), "{error}");
        assert_eq!(AnyOptimizer::default().name(), "adamw");
    }
}
