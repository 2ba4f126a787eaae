//! Settings of the generic rule, drawn so that every value of every knob and every pair of values that go together
//! occurs.

use hecate_core::conformance::random::Random;
use hecate_core::rules::miras::{Decay, Gates, GradientAt, ReadAt, algorithm, bias, features, retention, structure};
use hecate_core::rules::{Miras, miras::HiddenActivation};
use hecate_core::{Dims, MemoryRule};
use std::collections::BTreeMap;
use std::fmt::Debug;

/// Heads that every setting must fit if it exists at all.
pub const SIZE: Dims = Dims { dk: 4, dv: 4 };

/// One value of a knob: what it does to a rule. A label with a space is a listed value at other settings.
pub struct Value {
    pub label: String,
    set: Box<dyn Fn(&mut Miras) + Send + Sync>,
}

fn value(label: impl Into<String>, set: impl Fn(&mut Miras) + Send + Sync + 'static) -> Value {
    Value { label: label.into(), set: Box::new(set) }
}

/// A knob and its values; the first is neutral: it goes with everything that it can go with.
pub struct Knob {
    pub name: &'static str,
    pub values: Vec<Value>,
}

/// Values of a list by their names, and more under names of their own.
fn listed<A: Clone + Send + Sync + 'static>(
    all: Vec<A>,
    name: fn(&A) -> &'static str,
    first: &str,
    set: fn(&mut Miras, A),
    more: Vec<(&str, A)>,
) -> Vec<Value> {
    let named = all.into_iter().map(|a| (name(&a).to_string(), a));
    let mut list: Vec<(String, A)> = named.chain(more.into_iter().map(|(n, a)| (n.to_string(), a))).collect();
    list.sort_by_key(|(name, _)| name != first);
    list.into_iter().map(|(label, a)| value(label, move |m| set(m, a.clone()))).collect()
}

/// Takes a listed value at other settings.
fn replace(list: &mut [Value], value: Value) {
    let at = list.iter().position(|v| v.label == value.label).expect("it is listed");
    list[at] = value;
}

fn structures() -> Vec<Value> {
    // Narrow, so that hundreds of settings take seconds.
    let two = structure::Mlp { expansion: 2, ..structure::Mlp::default() };
    let gated = structure::GatedMlp { expansion: 2, ..structure::GatedMlp::default() };
    let three =
        structure::Mlp { layers: 3, expansion: 2, activation: HiddenActivation::Silu, residual: false, norm: true };
    let all = structure::AnyStructure::all();
    let more = vec![("mlp 3", three.into())];
    let mut list = listed(all, structure::AnyStructure::name, "matrix", |m, a| m.structure = a, more);
    replace(&mut list, value("mlp", move |m| m.structure = two.clone().into()));
    replace(&mut list, value("gated_mlp", move |m| m.structure = gated.clone().into()));
    list
}

fn feature_maps() -> Vec<Value> {
    let cube = features::Polynomial { degree: 3 };
    let few = features::Fourier { features: 6, ..features::Fourier::default() };
    let all = features::AnyFeatures::all();
    let more = vec![("polynomial 3", cube.into())];
    let mut list = listed(all, features::AnyFeatures::name, "none", |m, a| m.features = a, more);
    replace(&mut list, value("fourier", move |m| m.features = few.clone().into()));
    list
}

fn biases() -> Vec<Value> {
    let square = bias::Lp { p: 2.0, form: bias::Form::Tanh };
    let sharp = bias::L1 { form: bias::Form::Tanh };
    let more = vec![("lp printed", square.into()), ("l1 printed", sharp.into())];
    listed(bias::AnyBias::all(), bias::AnyBias::name, "l2", |m, a| m.bias = a, more)
}

fn algorithms() -> Vec<Value> {
    let polynomial = algorithm::Polynomial::Quintic;
    let late = algorithm::Muon { polynomial, when: algorithm::When::Chunk, ..algorithm::Muon::default() };
    let polynomial = algorithm::Polynomial::Cubic;
    let cubic = algorithm::Muon { polynomial, iterations: 3, ..algorithm::Muon::default() };
    let more = vec![("muon per chunk", late.into()), ("muon cubic", cubic.into())];
    listed(algorithm::AnyAlgorithm::all(), algorithm::AnyAlgorithm::name, "gd", |m, a| m.algorithm = a, more)
}

/// One value per item of a list.
fn each<A: Debug + Copy + Send + Sync + 'static>(items: &[A], set: fn(&mut Miras, A)) -> Vec<Value> {
    items.iter().map(|&a| value(format!("{a:?}"), move |m| set(m, a))).collect()
}

fn retentions() -> Vec<Value> {
    let all = retention::AnyRetention::all();
    listed(all, retention::AnyRetention::name, "l2", |m, a| m.retention = a, Vec::new())
}

pub fn knobs() -> Vec<Knob> {
    let knob = |name, values| Knob { name, values };
    vec![
        knob("structure", structures()),
        knob("features", feature_maps()),
        knob("bias", biases()),
        knob("retention", retentions()),
        knob("algorithm", algorithms()),
        knob("window", each(&[0, 1, 3], |m, n| m.window = n)),
        knob("steps", each(&[1, 2, 3], |m, n| m.steps = n)),
        knob("chunk", each(&[1, 4, 5], |m, n| m.chunk = n)),
        knob("gates", each(&[Gates::Scalar, Gates::Value, Gates::Key], |m, g| m.gates = g)),
        knob("gradient", each(&[GradientAt::Prev, GradientAt::Decayed], |m, g| m.gradient = g)),
        knob("read", each(&[ReadAt::Post, ReadAt::Pre, ReadAt::Start], |m, r| m.read = r)),
        knob("decay", each(&[Decay::Gate, Decay::Retnet, Decay::Lightning], |m, d| m.decay = d)),
        knob("clip", each(&[None, Some(2.5)], |m, c| m.clip = c)),
    ]
}

/// Which value of each knob.
pub type Setting = Vec<usize>;

pub fn rule(knobs: &[Knob], setting: &[usize]) -> Miras {
    let mut rule = Miras::default();
    for (knob, &v) in knobs.iter().zip(setting) {
        (knob.values[v].set)(&mut rule);
    }
    rule
}

pub fn describe(knobs: &[Knob], setting: &[usize]) -> String {
    let moved = knobs.iter().zip(setting).filter(|(_, v)| **v > 0);
    let list: Vec<String> = moved.map(|(k, &v)| format!("{} = {}", k.name, k.values[v].label)).collect();
    if list.is_empty() { "all neutral".into() } else { list.join(", ") }
}

/// A value of one knob and a value of a later one.
pub type Pair = ((usize, usize), (usize, usize));

/// Draws until all is covered.
pub struct Draw<'a> {
    knobs: &'a [Knob],
    random: Random,
    /// Index of the retention `none`, the other neutral value of that knob.
    no_retention: usize,
}

impl<'a> Draw<'a> {
    pub fn new(knobs: &'a [Knob], seed: u64) -> Self {
        let retention = knobs.iter().find(|k| k.name == "retention").expect("it is a knob");
        let no_retention = retention.values.iter().position(|v| v.label == "none").expect("it is a value");
        Self { knobs, random: Random::new(seed), no_retention }
    }

    /// The setting with these values, all others neutral, if it exists.
    fn neutral(&self, fixed: &BTreeMap<usize, usize>) -> Option<Setting> {
        let retention = self.knobs.iter().position(|k| k.name == "retention").expect("it is a knob");
        [0, self.no_retention].into_iter().find_map(|kept| {
            let mut setting = vec![0; self.knobs.len()];
            setting[retention] = kept;
            fixed.iter().for_each(|(&k, &v)| setting[k] = v);
            rule(self.knobs, &setting).check(SIZE).is_ok().then_some(setting)
        })
    }

    /// Whether any setting has these values.
    pub fn exists(&self, fixed: &[(usize, usize)]) -> bool {
        self.neutral(&fixed.iter().copied().collect()).is_some()
    }

    /// Every pair of values of two knobs, and whether any setting has both.
    pub fn pairs(&self) -> (Vec<Pair>, Vec<Pair>) {
        let mut all = Vec::new();
        for (a, first) in self.knobs.iter().enumerate() {
            for (b, second) in self.knobs.iter().enumerate().skip(a + 1) {
                let values = (0..first.values.len()).flat_map(|i| (0..second.values.len()).map(move |j| (i, j)));
                all.extend(values.map(|(i, j)| ((a, i), (b, j))));
            }
        }
        all.into_iter().partition(|&(a, b)| self.neutral(&BTreeMap::from([a, b])).is_some())
    }

    /// A setting with these values, the others drawn in turn among those that still leave one.
    pub fn around(&mut self, fixed: &[(usize, usize)]) -> Setting {
        let mut fixed: BTreeMap<usize, usize> = fixed.iter().copied().collect();
        let mut open: Vec<usize> = (0..self.knobs.len()).filter(|k| !fixed.contains_key(k)).collect();
        while !open.is_empty() {
            let knob = open.swap_remove(self.random.below(open.len()));
            loop {
                fixed.insert(knob, self.random.below(self.knobs[knob].values.len()));
                if self.neutral(&fixed).is_some() && !self.fades(&fixed) {
                    break;
                }
            }
        }
        fixed.into_values().collect()
    }

    /// Settings that are right and move next to nothing: a decay by a fifth a token leaves a deep memory, whose rate is
    /// a hundredth, little to read, less at the start of a chunk, and less still where three layers of positive weights
    /// come near the mean of their inputs.
    fn fades(&self, fixed: &BTreeMap<usize, usize>) -> bool {
        let label = |name: &str| {
            let knob = self.knobs.iter().position(|k| k.name == name).expect("it is a knob");
            fixed.get(&knob).map_or("", |&v| &self.knobs[knob].values[v].label)
        };
        let structure = label("structure");
        let deep = ["mlp", "mlp 3", "gated_mlp"].contains(&structure);
        let late = ["4", "5"].contains(&label("chunk")) || label("read") == "Start";
        let positive = ["sigmoid", "kl", "chi2", "reverse_kl", "hellinger"].contains(&label("retention"));
        label("decay") == "Lightning" && ((deep && late) || (structure == "mlp 3" && positive))
    }

    /// One of `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.random.below(n)
    }
}

/// The pairs of a setting.
pub fn pairs_of(setting: &[usize]) -> Vec<Pair> {
    let one = |a: usize| (a, setting[a]);
    (0..setting.len()).flat_map(|a| (a + 1..setting.len()).map(move |b| (one(a), one(b)))).collect()
}
