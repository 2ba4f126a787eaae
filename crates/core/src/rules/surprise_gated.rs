//! A gate on surprise: any rule, which writes the tokens that surprise and skips the others.
//!
//! ```text
//! s  = |W' - W| with W' of write(M, x)      `norm`: how far the token would move W, the weights and momenta of M
//! s  = 1/2 |read(M, x with q = k) - v|^2    `loss`: how badly the memory recalls what the token brings
//! M' = write(M, x) if s >= threshold, else M
//! y  = read(M', x)
//! ```
//!
//! A token that is skipped leaves no trace: nothing decays, and the inner rule, which counts the tokens that it has
//! taken, goes through its chunks and windows as if the others had never come. So the memory is, in the reference bit
//! for bit, that of the inner rule over the tokens that were written. Gradients are exact on either side of the
//! threshold; the decision itself is a constant, like every hard switch here. Each decision is the token's alone,
//! however a stream is cut.
//!
//! `norm` looks at what holds the memory and not at what stands beside it: a token that enters a window, or a copy that
//! follows at the end of a chunk, is no surprise. Where a step waits for the end of its chunk (`step_W`), or a shard ends
//! in a reset, the token that brings it moves the memory by all of it, and is measured so.
//!
//! That the size of an update says how much a token surprises is [Titans v1 eq.8]. Unlike the paper, which writes every
//! token by its surprise, small ones are skipped.

use crate::kernel::Kernel;
use crate::kernels::memory::gated;
use crate::rule::{About, ChunkForm, Dims, Holds, Input, MemoryRule, StateTensor, Width};
use crate::rules::{AnyRule, GatedDelta};
use crate::scan::PerInput;
use crate::scalar::Scalar;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Tokens are counted in two numbers, since `f32` counts no further than 2^24: the second counts runs of this many.
const RUN: f64 = 1_048_576.0;

/// A rule that skips tokens below a threshold; see the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SurpriseGated {
    /// The rule that writes and reads.
    pub rule: Box<AnyRule>,
    /// What says how much a token surprises.
    pub signal: Signal,
    /// Tokens below it are skipped; at 0 there are none.
    pub threshold: f64,
}

/// What says how much a token surprises a memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Euclidean norm of what the token would change in the tensors that hold the memory.
    #[default]
    Norm,
    /// Half the squared distance of what the memory recalls under the token's key from its value.
    Loss,
}

impl Default for SurpriseGated {
    fn default() -> Self {
        // What a value of length one moves an empty memory by, at the rate that gates start with.
        Self { rule: Box::new(GatedDelta::default().into()), signal: Signal::Norm, threshold: 0.5 }
    }
}

impl SurpriseGated {
    /// Tokens over which the share of those written is a running mean.
    pub const HORIZON: f64 = 1024.0;
    /// Name of the state tensor behind [`SurpriseGated::share`].
    pub const WRITTEN: &'static str = "written";

    /// How many numbers of a state count tokens, whatever the inner rule counts.
    pub(crate) const COUNTS: usize = 2;

    /// Counts a token, written or not.
    pub(crate) fn count<F: Scalar>(written: bool, counts: &mut [F]) {
        let open = if written { F::one() } else { F::zero() };
        // Beside the share the same mean of ones, so that a young one is a mean too.
        for (mean, value) in counts.iter_mut().zip([open, F::one()]) {
            *mean += (value - *mean) * F::from_f64(1.0 / Self::HORIZON);
        }
    }

    /// Transpose of [`SurpriseGated::count`].
    pub(crate) fn count_backward<F: Scalar>(dcounts: &mut [F]) {
        dcounts[..Self::COUNTS].iter_mut().for_each(|d| *d *= F::from_f64(1.0 - 1.0 / Self::HORIZON));
    }

    /// The share of late tokens that one head has written, a mean over 1,024 tokens, from its [`SurpriseGated::WRITTEN`];
    /// 0 before the first token.
    pub fn share<F: Scalar>(written: &[F]) -> f64 {
        written[0].value() / written[1].value().max(f64::MIN_POSITIVE)
    }

    /// How many of a state's numbers are the inner rule's; they come first.
    fn inner(&self, len: usize) -> usize {
        len - Self::COUNTS - if self.rule.positional() { 2 } else { 0 }
    }

    /// The position of the inner rule's next token; `counts` are what of the state is not the inner rule's.
    fn next<F: Scalar>(&self, pos: u64, counts: &[F]) -> u64 {
        let whole = |x: F| x.value().round() as u64; // 0 for what is no count
        match counts {
            &[_, _, low, high] => whole(low).saturating_add(whole(high).saturating_mul(RUN as u64)),
            _ => pos,
        }
    }

    /// The position of a read: that of the last token written, for a rule that writes first.
    fn last<F: Scalar>(&self, pos: u64, counts: &[F]) -> u64 {
        let next = self.next(pos, counts);
        if self.rule.positional() && !self.rule.reads_first() { next.saturating_sub(1) } else { next }
    }

    /// The memory after the token, if it surprises.
    fn written<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], memory: &[F], counts: &[F]) -> Option<Vec<F>> {
        let write = || {
            let mut next = memory.to_vec();
            self.rule.over::<F>().write(d, self.next(pos, counts), x, &mut next);
            next
        };
        // In this order a number that is none is written, for the caller to find.
        match self.signal {
            Signal::Norm => {
                let next = write();
                let skipped = self.moved(d, &next, memory).sqrt() < self.threshold;
                (!skipped).then_some(next)
            }
            Signal::Loss => {
                let skipped = self.loss(d, pos, x, memory, counts) < self.threshold;
                (!skipped).then(write)
            }
        }
    }

    /// The squared distance between two states of the inner rule, of what holds the memory.
    fn moved<F: Scalar>(&self, d: Dims, next: &[F], memory: &[F]) -> f64 {
        let (mut at, mut sum) = (0, 0.0);
        for tensor in self.rule.state(d) {
            let own = at..at + tensor.len();
            at = own.end;
            if tensor.holds == Holds::Memory {
                sum += squared_distance(&next[own.clone()], &memory[own]);
            }
        }
        sum
    }

    /// `1/2 |read(M, k) - v|^2`.
    fn loss<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], memory: &[F], counts: &[F]) -> f64 {
        let list = self.rule.inputs();
        let [k, v, q] = ["k", "v", "q"].map(|name| {
            list.iter().position(|i| i.name == name).expect("the configuration was checked")
        });
        let mut asked: PerInput<&[F]> = x.iter().copied().collect();
        let mut recalled = vec![F::zero(); d.dv];
        asked[q] = x[k];
        self.rule.over::<F>().read(d, self.last(pos, counts), &asked, memory, &mut recalled);
        0.5 * squared_distance(&recalled, x[v])
    }
}

fn squared_distance<F: Scalar>(a: &[F], b: &[F]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| (a - b).value().powi(2)).sum()
}

impl MemoryRule for SurpriseGated {
    const NAME: &'static str = "surprise_gated";
    const KERNELS: &'static [Kernel<Self>] = gated::KERNELS;

    fn unbounded(&self) -> Option<&'static str> {
        self.rule.unbounded()
    }
    fn brief(&self) -> Self {
        Self { rule: Box::new(self.rule.brief()), ..self.clone() }
    }
    fn reads_first(&self) -> bool {
        self.rule.reads_first()
    }
    fn positional(&self) -> bool {
        // Where the inner rule is, its place is in the state.
        false
    }
    fn reads(&self, input: &Input) -> bool {
        self.rule.erased().reads(input)
    }

    fn about(&self) -> About {
        let inner = self.rule.about();
        About {
            equation: "M' = write(M, x) where its weights move by at least the threshold, else M; y = read(M', q)",
            source: "[Titans v1 eq.8]",
            retention: "per written token",
            chunk: if inner.chunk == ChunkForm::Frozen { ChunkForm::Frozen } else { ChunkForm::Sequential },
            ..inner
        }
    }

    fn inputs(&self) -> Vec<Input> {
        self.rule.inputs()
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        let taken = self.rule.positional().then(|| StateTensor::counts("taken", 2));
        self.rule.state(d).into_iter().chain([StateTensor::counts(Self::WRITTEN, 2)]).chain(taken).collect()
    }

    /// The rule's own; for `norm` three per number of its state, for `loss` a read of two per number and the distance.
    fn flops(&self, d: Dims) -> f64 {
        let n = self.rule.state_len(d) as f64;
        self.rule.flops(d)
            + match self.signal {
                Signal::Norm => 3.0 * n,
                Signal::Loss => 2.0 * n + 3.0 * d.dv as f64,
            }
    }

    fn check(&self, d: Dims) -> Result<()> {
        let refuse = |reason: String| Err(Error::Invalid { place: "rule `surprise_gated`".into(), reason });
        match &*self.rule {
            AnyRule::SurpriseGated(_) => {
                return refuse("a gate behind a gate is the higher one: give the inner rule itself".into());
            }
            AnyRule::Paced(_) => {
                return refuse(
                    "what a period changes is due, whatever surprises: put the gate inside, `paced` with a rule \
                     `surprise_gated`"
                        .into(),
                );
            }
            _ => {}
        }
        if !(self.threshold.is_finite() && self.threshold >= 0.0) {
            return refuse(format!("threshold = {} is not a number of at least 0", self.threshold));
        }
        if self.signal == Signal::Loss {
            let list = self.rule.inputs();
            let has = |&(name, width): &(&str, Width)| list.iter().any(|i| i.name == name && i.width == width);
            let needed = [("k", Width::Key), ("v", Width::Value), ("q", Width::Key)];
            if let Some((name, _)) = needed.iter().find(|n| !has(n)) {
                let rule = self.rule.name();
                return refuse(format!(
                    "signal = \"loss\" asks the memory for the value of a key, and `{rule}` takes no `{name}`: use \"norm\""
                ));
            }
        }
        self.rule.check(d)
    }

    fn write<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
        let (memory, counts) = state.split_at_mut(self.inner(state.len()));
        let next = self.written(d, pos, x, memory, counts);
        Self::count(next.is_some(), counts);
        let Some(next) = next else { return };
        memory.copy_from_slice(&next);
        if let [_, _, low, high] = counts {
            *low += F::one();
            if low.value() >= RUN {
                *low += -F::from_f64(RUN);
                *high += F::one();
            }
        }
    }

    fn write_backward<F: Scalar>(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        prev: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let inner = self.inner(prev.len());
        let ((memory, counts), (dmemory, dcounts)) = (prev.split_at(inner), dstate.split_at_mut(inner));
        Self::count_backward(dcounts);
        if self.written(d, pos, x, memory, counts).is_some() {
            self.rule.over::<F>().write_backward(d, self.next(pos, counts), x, memory, dx, dmemory);
        }
    }

    fn read<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
        let (memory, counts) = state.split_at(self.inner(state.len()));
        self.rule.over::<F>().read(d, self.last(pos, counts), x, memory, y);
    }

    fn read_backward<F: Scalar>(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        state: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let inner = self.inner(state.len());
        let (memory, counts) = state.split_at(inner);
        let last = self.last(pos, counts);
        self.rule.over::<F>().read_backward(d, last, x, memory, dy, dx, &mut dstate[..inner]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Check};
    use crate::rule::start_state;
    use crate::rules::Paced;
    use serde_json::json;

    const D: Dims = Dims { dk: 4, dv: 4 };

    fn rule(table: serde_json::Value) -> AnyRule {
        serde_json::from_value(table).unwrap()
    }

    /// Without chunks, with chunks, with a window, with both, one that makes its own keys, and one that reads first.
    fn inner() -> Vec<AnyRule> {
        vec![
            rule(json!("titans")),
            rule(json!({"name": "titans_mlp", "chunk": 4})),
            rule(json!({"name": "swla", "window": 3})),
            rule(json!({"name": "omeganet", "window": 3, "chunk": 4})),
            rule(json!({"name": "tnt", "global_chunk": 8, "locals": [2, 4], "shard": 8})),
            rule(json!({"name": "self_modifying", "chunk": 2, "chunk_memory": 4})),
            rule(json!({"name": "miras", "read": "pre"})),
        ]
    }

    fn gated(rule: &AnyRule, signal: Signal, threshold: f64) -> SurpriseGated {
        SurpriseGated { rule: Box::new(rule.clone()), signal, threshold }
    }

    /// Numbers that repeat from run to run and look like nothing in particular, in (0, 1).
    fn noise(n: usize) -> f32 {
        ((n * 7919 + 13) % 1009) as f32 / 1009.0
    }

    /// One token of a rule: positive numbers, so that they suit gates too.
    fn token(rule: &AnyRule, t: usize) -> Vec<Vec<f32>> {
        let number = |i: usize, j: usize| noise(1000 * t + 40 * i + j);
        rule.inputs().iter().enumerate().map(|(i, x)| (0..x.width.of(D)).map(|j| number(i, j)).collect()).collect()
    }

    fn start(rule: &AnyRule) -> Vec<f32> {
        let mut n = 0;
        let mut draw = || {
            n += 1;
            f64::from(noise(n)) - 0.5
        };
        start_state(&rule.state(D), &mut draw).iter().map(|&x| x as f32).collect()
    }

    /// Which of so many tokens were written, the end state, and the reads.
    fn run(rule: &SurpriseGated, tokens: usize) -> (Vec<usize>, Vec<f32>, Vec<f32>) {
        let any = AnyRule::from(rule.clone());
        let (mut state, mut y, mut open) = (start(&any), vec![0.0; D.dv], Vec::new());
        let (inner, mut reads) = (rule.inner(state.len()), Vec::new());
        for t in 0..tokens {
            let x = token(&any, t);
            let x: Vec<&[f32]> = x.iter().map(|x| &x[..]).collect();
            let before = state[..inner].to_vec();
            rule.step(D, t as u64, &x, &mut state, &mut y);
            if state[..inner] != before {
                open.push(t);
            }
            reads.extend_from_slice(&y);
        }
        (open, state, reads)
    }

    /// The rule alone over some of the tokens: the end state and the reads.
    fn plain(rule: &AnyRule, tokens: &[usize]) -> (Vec<f32>, Vec<f32>) {
        let (mut state, mut y, mut reads) = (start(rule), vec![0.0; D.dv], Vec::new());
        for (pos, &t) in tokens.iter().enumerate() {
            let x = token(rule, t);
            let x: Vec<&[f32]> = x.iter().map(|x| &x[..]).collect();
            rule.step(D, pos as u64, &x, &mut state, &mut y);
            reads.extend_from_slice(&y);
        }
        (state, reads)
    }

    fn signals(rule: &AnyRule) -> Vec<Signal> {
        let fits = |&s: &Signal| gated(rule, s, 0.0).check(D).is_ok();
        [Signal::Norm, Signal::Loss].into_iter().filter(fits).collect()
    }

    #[test]
    fn at_threshold_zero_it_is_the_rule_itself_bit_for_bit() {
        let all: Vec<usize> = (0..40).collect();
        for rule in inner() {
            let (end, reads) = plain(&rule, &all);
            for signal in signals(&rule) {
                let (open, state, got) = run(&gated(&rule, signal, 0.0), all.len());
                assert_eq!((open.len(), &state[..end.len()], &got), (all.len(), &end[..], &reads), "{}", rule.name());
            }
        }
    }

    #[test]
    fn beyond_a_threshold_that_no_token_reaches_nothing_changes() {
        for rule in inner() {
            for signal in signals(&rule) {
                let (open, state, _) = run(&gated(&rule, signal, 1e9), 40);
                let len = rule.state_len(D);
                assert!(open.is_empty() && state[..len] == start(&rule)[..], "{} {signal:?}", rule.name());
                assert_eq!((SurpriseGated::share(&state[len..]), &state[len + 2..]), (0.0, &[0.0; 2][..state.len() - len - 2]));
            }
        }
    }

    /// In between, the memory is that of the rule over the tokens that were written, and the shares are those counted.
    #[test]
    fn a_skipped_token_is_one_that_never_came() {
        for rule in inner() {
            for signal in signals(&rule) {
                let some = |&i: &i32| (8..=32).contains(&run(&gated(&rule, signal, 1.1_f64.powi(i)), 40).0.len());
                let threshold = 1.1_f64.powi((-60..60).find(some).unwrap_or_else(|| panic!("{} {signal:?}", rule.name())));
                let (open, state, _) = run(&gated(&rule, signal, threshold), 40);
                let (end, _) = plain(&rule, &open);
                assert_eq!(state[..end.len()], end, "{} {signal:?}", rule.name());
                let weight = |t: usize| (1.0 - 1.0 / SurpriseGated::HORIZON).powi(39 - t as i32);
                let of = |tokens: &mut dyn Iterator<Item = usize>| tokens.map(weight).sum::<f64>();
                let share = of(&mut open.iter().copied()) / of(&mut (0..40));
                assert!((SurpriseGated::share(&state[end.len()..]) - share).abs() < 1e-5, "{} {signal:?}", rule.name());
                if rule.positional() {
                    assert_eq!(state[end.len() + 2..], [open.len() as f32, 0.0], "{} {signal:?}", rule.name());
                }
                // A stream that ends earlier has decided the same of its tokens.
                let before: Vec<usize> = open.iter().copied().filter(|&t| t < 23).collect();
                assert_eq!(run(&gated(&rule, signal, threshold), 23).0, before, "{} {signal:?}", rule.name());
            }
        }
    }

    /// A token from which nothing is learned enters windows, and may be the last of a chunk: it is skipped, wherever it comes.
    #[test]
    fn what_stands_beside_the_memory_is_no_surprise() {
        let named = |rule: &AnyRule| ["swla", "omeganet", "tnt"].contains(&rule.name());
        let some = inner().into_iter().filter(named).chain([rule(json!({"name": "ttt_linear", "chunk": 4}))]);
        let mut seen = 0;
        for rule in some {
            assert!(rule.state(D).iter().any(|tensor| tensor.holds == Holds::Past), "{}", rule.name());
            seen += 1;
            let any = AnyRule::from(gated(&rule, Signal::Norm, 1e-6));
            let quiet = |(input, x): (&Input, Vec<f32>)| match input.name {
                "retain" => vec![1.0; x.len()],
                name if name.starts_with("rate") || name == "window" => vec![0.0; x.len()],
                _ => x,
            };
            for before in 1..8 {
                let mut state = start(&any);
                for t in 0..=before {
                    let mut x = token(&any, t);
                    let last = state.clone();
                    if t == before {
                        x = rule.inputs().iter().zip(x).map(quiet).collect();
                    }
                    any.over::<f32>().write(D, t as u64, &x.iter().map(|x| &x[..]).collect::<Vec<_>>(), &mut state);
                    let len = rule.state_len(D);
                    assert_eq!(state[..len] == last[..len], t == before, "{}: token {t} of {before}", rule.name());
                }
            }
        }
        assert_eq!(seen, 4);
    }

    #[test]
    fn tokens_are_counted_beyond_what_one_number_can_count() {
        let rule = gated(&rule(json!({"name": "ttt_linear", "chunk": 4})), Signal::Norm, 0.0);
        let any = AnyRule::from(rule.clone());
        let mut state = start(&any);
        let at = state.len() - 2;
        (state[at], state[at + 1]) = ((RUN - 1.0) as f32, 3.0);
        assert_eq!(rule.next(0, &state[at - 2..]), 4 * RUN as u64 - 1);
        let x = token(&any, 0);
        rule.write(D, 0, &x.iter().map(|x| &x[..]).collect::<Vec<_>>(), &mut state);
        assert_eq!(state[at..], [0.0, 4.0]);
        assert_eq!(rule.next(0, &state[at - 2..]), 4 * RUN as u64);
    }

    /// What a skipped token brings reaches nothing, unless its surprise depends on it.
    #[test]
    fn every_signal_keeps_the_promises_of_rules() {
        let tables = inner().into_iter().chain([rule(json!({"name": "lattice", "chunk": 3})), rule(json!("mesa"))]);
        for rule in tables {
            for signal in signals(&rule) {
                for threshold in [0.0, 0.3] {
                    let report = conformance::quick(&gated(&rule, signal, threshold));
                    let shut = |f: &&conformance::Failure| {
                        threshold > 0.0 && matches!(f.check, Check::Causal | Check::Alive)
                    };
                    let failures: Vec<_> = report.failures.iter().filter(|f| !shut(f)).collect();
                    assert!(failures.is_empty(), "{} {signal:?} {threshold}: {failures:?}", rule.name());
                }
            }
        }
    }

    #[test]
    fn gates_that_make_no_sense_are_refused_with_the_remedy() {
        let with = |inner: AnyRule, signal, threshold| AnyRule::from(gated(&inner, signal, threshold));
        let paced = |inner: AnyRule| Paced { rule: Box::new(inner), period: 4 };
        for (rule, part) in [
            (with(SurpriseGated::default().into(), Signal::Norm, 0.1), "behind a gate"),
            (with(Paced::default().into(), Signal::Norm, 0.1), "put the gate inside"),
            (with(rule(json!("delta")), Signal::Norm, -1.0), "threshold = -1"),
            (with(rule(json!("delta")), Signal::Norm, f64::NAN), "threshold = NaN"),
            (with(rule(json!("self_modifying")), Signal::Loss, 0.1), "use \"norm\""),
            (with(rule(json!("hgrn2")), Signal::Loss, 0.1), "takes no `k`"),
            (paced(with(rule(json!("titans_mlp")), Signal::Norm, 0.1)).into(), "chunk = 1"),
        ] {
            let reason = rule.check(D).unwrap_err().to_string();
            assert!(reason.contains(part), "{reason}");
        }
        paced(with(rule(json!("titans")), Signal::Loss, 0.1)).check(D).unwrap();
        let entropy = json!({"name": "surprise_gated", "signal": "entropy"});
        assert!(serde_json::from_value::<AnyRule>(entropy).unwrap_err().to_string().contains("`norm` or `loss`"));
    }
}
