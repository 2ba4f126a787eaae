//! What the rules can and cannot remember: small experiments whose outcome the mathematics fixes.

use hecate_core::{AnyRule, Dims};

const D: usize = 32;
const SEEDS: u64 = 5;

/// A small generator of unit vectors.
struct Draw(u64);

impl Draw {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
    /// A sum of twelve uniforms is near enough to normal for a direction.
    fn unit(&mut self) -> Vec<f64> {
        let x: Vec<f64> = (0..D).map(|_| (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0).collect();
        let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        x.iter().map(|x| x / length).collect()
    }
}

/// A memory of one rule with fixed gates.
struct Memory {
    rule: AnyRule,
    gates: Vec<(&'static str, f64)>,
    state: Vec<f64>,
}

impl Memory {
    fn new(rule: &str, gates: &[(&'static str, f64)]) -> Self {
        let rule = AnyRule::named(rule).unwrap();
        let state = vec![0.0; rule.state_len(Dims::new(D, D))];
        Self { rule, gates: gates.to_vec(), state }
    }

    /// One token; gives the read.
    fn step(&mut self, k: &[f64], v: &[f64], q: &[f64]) -> Vec<f64> {
        let gate = |name: &str| self.gates.iter().find(|g| g.0 == name).map(|g| [g.1]);
        let inputs = self.rule.inputs();
        let gates: Vec<[f64; 1]> = inputs.iter().map(|i| gate(i.name).unwrap_or([f64::NAN])).collect();
        let choose = |(i, g)| match i {
            "k" => k,
            "v" => v,
            "q" => q,
            _ => g,
        };
        let x: Vec<&[f64]> = inputs.iter().zip(&gates).map(|(i, g)| choose((i.name, &g[..]))).collect();
        let mut y = vec![f64::NAN; D];
        self.rule.step(Dims::new(D, D), 0, &x, &mut self.state, &mut y);
        y
    }

    /// Mean over pairs of |M k - v|^2.
    fn error(&self, keys: &[Vec<f64>], values: &[Vec<f64>]) -> f64 {
        let w = &self.state[..D * D];
        let off = |(k, v): (&Vec<f64>, &Vec<f64>)| -> f64 {
            let read = |r: usize| (0..D).map(|c| w[r * D + c] * k[c]).sum::<f64>();
            (0..D).map(|r| (read(r) - v[r]).powi(2)).sum()
        };
        keys.iter().zip(values).map(off).sum::<f64>() / keys.len() as f64
    }
}

/// Mean error after `passes` over `n` random pairs.
fn stored(rule: &str, gates: &[(&'static str, f64)], n: usize, passes: usize) -> f64 {
    let one = |seed: u64| {
        let mut draw = Draw(seed + 1);
        let keys: Vec<_> = (0..n).map(|_| draw.unit()).collect();
        let values: Vec<_> = (0..n).map(|_| draw.unit()).collect();
        let mut memory = Memory::new(rule, gates);
        for _ in 0..passes {
            for (k, v) in keys.iter().zip(&values) {
                memory.step(k, v, k);
            }
        }
        memory.error(&keys, &values)
    };
    (0..SEEDS).map(one).sum::<f64>() / SEEDS as f64
}

#[test]
fn the_delta_rule_stores_more_than_the_hebbian_and_momentum_a_little_more_still() {
    for n in [16, 32, 64] {
        let hebbian = stored("linear_attention", &[("retain", 1.0), ("rate", 1.0)], n, 1);
        let delta = stored("delta", &[("rate", 1.0)], n, 1);
        let titans = stored("titans", &[("retain", 1.0), ("rate", 0.5), ("momentum", 0.5)], n, 1);
        // Every other pair adds 1 / d of its own size to what a Hebbian memory reads.
        let crosstalk = (n - 1) as f64 / D as f64;
        assert!((hebbian / crosstalk - 1.0).abs() < 0.1, "{n} pairs: {hebbian}, expected about {crosstalk}");
        assert!(delta < 0.7 * hebbian, "{n} pairs: delta {delta}, Hebbian {hebbian}");
        assert!(titans < delta, "{n} pairs: with momentum {titans}, without {delta}");
    }
}

#[test]
fn a_matrix_memory_is_full_at_as_many_pairs_as_its_keys_are_wide() {
    let after_eight = |n| stored("delta", &[("rate", 1.0)], n, 8);
    assert!(after_eight(D / 2) < 0.02, "{}", after_eight(D / 2));
    assert!(after_eight(2 * D) > 0.8, "{}", after_eight(2 * D));
}

#[test]
fn the_delta_rules_overwrite_where_the_hebbian_keeps_the_sum() {
    let rewritten = |rule: &str, gates: &[(&'static str, f64)]| {
        let one = |seed: u64| {
            let mut draw = Draw(seed + 100);
            let keys: Vec<_> = (0..24).map(|_| draw.unit()).collect();
            let mut memory = Memory::new(rule, gates);
            let mut values = Vec::new();
            for _ in 0..2 {
                values = keys.iter().map(|_| draw.unit()).collect();
                for (k, v) in keys.iter().zip(&values) {
                    memory.step(k, v, k);
                }
            }
            memory.error(&keys, &values)
        };
        (0..SEEDS).map(one).sum::<f64>() / SEEDS as f64
    };
    let hebbian = rewritten("linear_attention", &[("retain", 1.0), ("rate", 1.0)]);
    let forgetting = rewritten("linear_attention", &[("retain", 0.9), ("rate", 1.0)]);
    assert!(hebbian > 2.0, "{hebbian}");
    assert!(forgetting < 0.75, "{forgetting}");
    for (rule, retain) in [("delta", 1.0), ("gated_delta", 0.95), ("decay_delta", 0.95)] {
        let error = rewritten(rule, &[("rate", 1.0), ("retain", retain)]);
        assert!(error < 0.65, "{rule}: {error}");
    }
}

/// Along its key a write multiplies the memory by retain - rate where the error is taken before the decay, which can
/// be -1; the gated rule gives retain (1 - rate), which cannot be negative.
#[test]
fn parity_can_be_counted_only_where_a_write_can_turn_the_sign() {
    let mut draw = Draw(7);
    let key = draw.unit();
    let zero = vec![0.0; D];
    let (mut decay, mut gated) = (Memory::new("decay_delta", &[]), Memory::new("gated_delta", &[]));
    for memory in [&mut decay, &mut gated] {
        memory.gates = vec![("retain", 1.0), ("rate", 1.0)];
        memory.step(&key, &key, &key);
    }
    let mut parity = 1.0;
    for _ in 0..1000 {
        let bit = draw.uniform() < 0.5;
        // On a one: forget everything and take a whole step towards nothing. On a zero: do nothing.
        let gates = vec![("retain", f64::from(!bit)), ("rate", f64::from(bit))];
        parity *= if bit { -1.0 } else { 1.0 };
        (decay.gates, gated.gates) = (gates.clone(), gates);
        let read = decay.step(&key, &zero, &key);
        let along: f64 = read.iter().zip(&key).map(|(y, k)| y * k).sum();
        assert!((along - parity).abs() < 1e-9, "reads {along} where the parity is {parity}");
        let read = gated.step(&key, &zero, &key);
        assert!(read.iter().zip(&key).map(|(y, k)| y * k).sum::<f64>() >= -1e-12);
    }
}

/// A limit of the bound that `rate * (1 - momentum)` gives: it holds for gates that do not work against each other.
/// One token without momentum makes a whole step, three tokens with full momentum repeat it, and the error grows
/// threefold every four tokens.
#[test]
fn momentum_that_alternates_against_the_rule_grows_without_bound() {
    let mut draw = Draw(11);
    let (key, value) = (draw.unit(), draw.unit());
    let mut memory = Memory::new("titans", &[]);
    let mut sizes = Vec::new();
    for _ in 0..20 {
        for t in 0..4 {
            let momentum = f64::from(t > 0);
            memory.gates = vec![("retain", 1.0), ("rate", 1.0 - momentum), ("momentum", momentum)];
            memory.step(&key, &value, &key);
        }
        sizes.push(memory.error(std::slice::from_ref(&key), std::slice::from_ref(&value)).sqrt());
    }
    for pair in sizes.windows(2) {
        assert!((pair[1] / pair[0] - 3.0).abs() < 1e-6, "{sizes:?}");
    }
}
