//! A slow level: any rule, whose memory changes once per period of tokens.
//!
//! ```text
//! E' = E + write(M, x) - M                  what the token alone would have changed
//! M' = M + E' / period,  E' = 0             at every period-th token; else M' = M
//! y  = read(M', x)
//! ```
//!
//! Between two of its steps the memory stands still and is read like any other. `E` is the error buffer: for rules
//! that are linear in their gates it holds the sum of the inner gradients at `M`, so that a step takes their mean, and
//! `retain` and `momentum` act once per period with the means of their gates. What the inner rule counts as tokens are
//! periods. The idea of levels by update frequency is that of [NestedLearning v1 eq.71]; the mean keeps the step of a
//! slow level as large as that of a fast one.

use crate::kernel::Kernel;
use crate::kernels::memory::periods;
use crate::rule::{About, ChunkForm, Dims, Input, MemoryRule, StateTensor};
use crate::rules::{AnyRule, GatedDelta};
use crate::scalar::Scalar;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The longest period: positions and periods stay far inside the range of an index.
const MAX_PERIOD: u64 = 1 << 40;

/// A rule whose memory changes once per period; see the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paced {
    /// The rule that writes and reads.
    pub rule: Box<AnyRule>,
    /// Tokens from one change of the memory to the next.
    pub period: u64,
}

impl Default for Paced {
    fn default() -> Self {
        Self { rule: Box::new(GatedDelta::default().into()), period: 8 }
    }
}

impl Paced {
    /// True if the memory changes at the token at `pos`.
    pub(crate) fn is_due(&self, pos: u64) -> bool {
        (pos + 1).is_multiple_of(self.period.max(1))
    }
    /// Tokens from the one at `pos` to that at which the memory changes, both included.
    pub(crate) fn until_due(&self, pos: u64) -> u64 {
        self.period.max(1) - self.since_due(pos)
    }
    /// Tokens since the last change of the memory, the one at `pos` not among them.
    pub(crate) fn since_due(&self, pos: u64) -> u64 {
        pos % self.period.max(1)
    }
    /// Changes of the memory before the token at `pos`: what the inner rule counts.
    fn steps(&self, pos: u64) -> u64 {
        pos / self.period.max(1)
    }
    /// One over the period.
    pub(crate) fn share<F: Scalar>(&self) -> F {
        F::from_f64(1.0 / self.period.max(1) as f64)
    }
}

impl MemoryRule for Paced {
    const NAME: &'static str = "paced";
    const KERNELS: &'static [Kernel<Self>] = periods::KERNELS;

    fn unbounded(&self) -> Option<&'static str> {
        self.rule.unbounded()
    }
    fn brief(&self) -> Self {
        Self { rule: Box::new(self.rule.brief()), period: self.period.min(5) }
    }
    fn positional(&self) -> bool {
        true
    }
    fn reads_first(&self) -> bool {
        self.rule.reads_first()
    }

    fn reads(&self, input: &Input) -> bool {
        self.rule.erased().reads(input)
    }

    fn about(&self) -> About {
        About {
            equation: "E' = E + write(M, x) - M; at every period-th token M' = M + E' / period, E' = 0; y = read(M', q)",
            source: "[NestedLearning v1 eq.71]",
            // The inner rule's, once per period and by the mean of its gates.
            retention: "per period",
            chunk: ChunkForm::Sequential,
            ..self.rule.about()
        }
    }

    fn inputs(&self) -> Vec<Input> {
        self.rule.inputs()
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        let own = self.rule.state(d);
        let error = |t: &StateTensor| {
            StateTensor { holds: t.holds, ..StateTensor::zeros(format!("error_{}", t.name), t.shape.clone()) }
        };
        let errors: Vec<StateTensor> = own.iter().map(error).collect();
        own.into_iter().chain(errors).collect()
    }

    /// The rule's own, and one addition per number of its state.
    fn flops(&self, d: Dims) -> f64 {
        self.rule.flops(d) + self.rule.state_len(d) as f64
    }

    fn check(&self, d: Dims) -> Result<()> {
        let refuse = |reason: String| Err(Error::Invalid { place: "rule `paced`".into(), reason });
        if matches!(*self.rule, AnyRule::Paced(_)) {
            return refuse("a period of a period is a longer period: give the inner rule itself".into());
        }
        if let AnyRule::SurpriseGated(gated) = &*self.rule
            && gated.rule.positional()
        {
            return refuse(format!(
                "the gate inside keeps count of what `{}` has taken, and a mean of counts is none: give that rule no \
                 chunk and no window (`chunk = 1`), or no period",
                gated.rule.name()
            ));
        }
        if self.period < 2 || self.period > MAX_PERIOD {
            return refuse(format!(
                "period = {} is out of range: from 2 to {MAX_PERIOD}; without a period, use the inner rule itself",
                self.period
            ));
        }
        self.rule.check(d)
    }

    fn write<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
        let (memory, error) = state.split_at_mut(state.len() / 2);
        let mut next = memory.to_vec();
        self.rule.over::<F>().write(d, self.steps(pos), x, &mut next);
        for ((e, &next), &now) in error.iter_mut().zip(&next).zip(&*memory) {
            *e += next - now;
        }
        if self.is_due(pos) {
            for (m, e) in memory.iter_mut().zip(&mut *error) {
                *m += self.share::<F>() * *e;
            }
            error.fill(F::zero());
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
        let (dmemory, derror) = dstate.split_at_mut(prev.len() / 2);
        if self.is_due(pos) {
            for (de, &dm) in derror.iter_mut().zip(&*dmemory) {
                *de = self.share::<F>() * dm;
            }
        }
        // E' = E + write(M) - M
        let mut dnext = derror.to_vec();
        self.rule.over::<F>().write_backward(d, self.steps(pos), x, &prev[..prev.len() / 2], dx, &mut dnext);
        for ((dm, &dnext), &de) in dmemory.iter_mut().zip(&dnext).zip(&*derror) {
            *dm += dnext - de;
        }
    }

    fn read<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
        self.rule.over::<F>().read(d, self.steps(pos), x, &state[..state.len() / 2], y);
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
        let half = state.len() / 2;
        self.rule.over::<F>().read_backward(d, self.steps(pos), x, &state[..half], dy, dx, &mut dstate[..half]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paced(rule: &str, period: u64) -> Paced {
        Paced { rule: Box::new(AnyRule::named(rule).unwrap()), period }
    }

    /// The mean of the inner gradients of a period is what a period of equal tokens would give for one of them.
    #[test]
    fn a_period_of_equal_tokens_is_one_token_of_the_rule() {
        let d = Dims::new(2, 2);
        let x: [&[f64]; 5] = [&[0.6, 0.8], &[2.0, -1.0], &[1.0, 0.0], &[0.9], &[0.5]];
        let start = [0.1, 0.2, -0.3, 0.4];
        let mut once = start.to_vec();
        AnyRule::named("gated_delta").unwrap().write(d, 0, &x, &mut once);
        let rule = paced("gated_delta", 4);
        let mut state = [&start[..], &[0.0; 4]].concat();
        for pos in 0..4 {
            assert_eq!(state[..4], start, "it stands still until it is due");
            rule.write(d, pos, &x, &mut state);
        }
        assert!(state[..4].iter().zip(&once).all(|(a, b)| (a - b).abs() < 1e-15), "{state:?} {once:?}");
        assert_eq!(state[4..], [0.0; 4]);
    }

    /// A period of three holds one association: a third of it is left, and fades with the means of later periods.
    #[test]
    fn what_one_token_of_a_period_wrote_is_its_share_and_fades_once_per_period() {
        let (d, rule) = (Dims::new(1, 1), paced("gated_delta", 3));
        let mut state = vec![0.0; 2];
        let token = |pos, key: &[f64], retain: f64, state: &mut [f64]| {
            rule.write(d, pos, &[key, &[6.0], &[1.0], &[retain], &[1.0]], state);
        };
        token(0, &[1.0], 1.0, &mut state);
        (1..3).for_each(|pos| token(pos, &[0.0], 1.0, &mut state));
        assert!((state[0] - 2.0).abs() < 1e-15, "{state:?}");
        [0.5, 0.75, 1.0].into_iter().zip(3..).for_each(|(retain, pos)| token(pos, &[0.0], retain, &mut state));
        assert!((state[0] - 1.5).abs() < 1e-15, "{state:?}");
    }

    #[test]
    fn periods_that_are_none_are_refused() {
        let d = Dims::new(2, 2);
        for period in [0, 1, u64::MAX] {
            let reason = paced("delta", period).check(d).unwrap_err().to_string();
            assert!(reason.contains("period = "), "{reason}");
        }
        let nested = Paced { rule: Box::new(Paced::default().into()), period: 2 };
        assert!(nested.check(d).unwrap_err().to_string().contains("period of a period"));
    }
}
