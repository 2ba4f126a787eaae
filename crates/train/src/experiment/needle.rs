//! A pair in the first segment, its key in the last: what carries it across.

use super::draw::rng;
use super::figure::{Figure, Scale};
use super::outcome::{Cell, Finding, Must, Table, highest, lowest, mean};
use super::sequences::{Example, Trained, Training, below, equal_in_size, model, side_by_side};
use super::{Experiment, Result};
use hecate_model::rng::Rng;
use hecate_model::{Access, Parts};
use serde_json::{Value, json};

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "needle",
    asks: "What carries a pair from the first segment to the last?",
    source: "[Titans v1 eq.21]",
    protocol: "A key (of 8) and its value (of 8) stand at a random place in the first segment of 16 tokens; random \
               fillers (of 8) follow, and the last token of the fourth segment is the key, where the value is asked. \
               One block of width 32 with a perceptron of 64 hidden units: `mac` over these segments, `mag` with a \
               window of 16, both with a `titans` memory; two blocks of attention with that window, which see at most \
               31 tokens of the 48 or more in between; perceptrons are widened until all have as many parameters. \
               Muon at 1e-2, 2000 steps of 16 sequences. Tested on 256 \
               sequences of four segments and of eight, and once more with memories that may not write.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full() }.of_equal_size()?;
        Ok(setup.finding(&setup.measure()?))
    },
};

/// Keys, and as many values, and as many fillers.
const NAMES: usize = 8;
const VOCAB: usize = 3 * NAMES;

/// What is run.
struct Setup {
    segment: usize,
    width: usize,
    steps: u64,
    lanes: usize,
    tests: usize,
    seeds: usize,
    arms: Vec<Arm>,
    /// Fewest and most parameters of a model, once they are equal in size.
    sizes: [usize; 2],
}

/// Blocks that are compared.
struct Arm {
    name: &'static str,
    blocks: Value,
}

/// The share of right answers after four segments, after eight, and after four where no memory writes.
type Answers = [f64; 3];

/// Segments in training, and in the two tests.
const SEGMENTS: [usize; 2] = [4, 8];
/// Places in [`Setup::arms`].
const MAC: usize = 0;
const MAG: usize = 1;
const WINDOW: usize = 2;
const COLUMNS: [&str; 3] = ["4 segments", "8 segments", "4, memory frozen"];

impl Setup {
    fn full() -> Self {
        let memory = json!({"rule": "titans", "heads": 1});
        let channel = json!({"type": "mlp", "hidden": 64});
        let arm = |name, mixer: Value, repeat: usize| {
            Arm { name, blocks: json!([{"repeat": repeat, "mixer": mixer, "channel": channel}]) }
        };
        let window = json!({"heads": 1, "window": 16});
        let mac =
            json!({"type": "mac", "segment": 16, "persistent": 2, "attention": {"heads": 1}, "memory": memory});
        let arms = vec![
            arm("mac", mac, 1),
            arm("mag", json!({"type": "mag", "attention": window, "memory": memory}), 1),
            arm("window attention", json!({"type": "attention", "heads": 1, "window": 16}), 2),
        ];
        Self { segment: 16, width: 32, steps: 2000, lanes: 16, tests: 256, seeds: super::SEEDS, arms, sizes: [0; 2] }
    }

    fn of_equal_size(mut self) -> Result<Self> {
        let blocks = self.arms.iter_mut().map(|arm| &mut arm.blocks);
        self.sizes = equal_in_size([VOCAB, self.width, SEGMENTS[0] * self.segment], blocks)?;
        Ok(self)
    }

    fn example(&self, draw: &mut Rng, segments: usize) -> Example {
        let (key, value) = (below(draw, NAMES), NAMES + below(draw, NAMES));
        let (place, mut example) = (below(draw, self.segment - 1), Example::default());
        for t in 0..segments * self.segment - 1 {
            let filler = 2 * NAMES + below(draw, NAMES);
            example.push(if t == place { key } else if t == place + 1 { value } else { filler } as u32);
        }
        example.ask(key as u32, value as u32);
        example
    }

    fn run(&self, arm: &Arm, seed: usize) -> Result<Answers> {
        let config = model(VOCAB, self.width, SEGMENTS[0] * self.segment, arm.blocks.clone())?;
        let mut trained = Trained::new(&config, seed)?;
        let (mut draw, mut test) = (rng("needle", seed), rng("needle test", seed));
        let how = Training::muon(1e-2, self.steps, self.lanes);
        trained.train(&how, seed, &mut || self.example(&mut draw, SEGMENTS[0]))?;
        let [near, far] = SEGMENTS.map(|n| (0..self.tests).map(|_| self.example(&mut test, n)).collect::<Vec<_>>());
        let still = Access::Frozen(Parts::all());
        let tests = [(&near, &Access::Learn), (&far, &Access::Learn), (&near, &still)];
        let mut out = [0.0; 3];
        for (out, (examples, access)) in out.iter_mut().zip(tests) {
            *out = trained.score(examples, access)?.answers;
        }
        Ok(out)
    }

    fn measure(&self) -> Result<Vec<Vec<Answers>>> {
        side_by_side(&self.arms, self.seeds, |arm, seed| self.run(arm, seed))
    }

    fn musts(&self, m: &[Vec<Answers>]) -> Vec<Must> {
        let column = |arm: usize, i: usize| m[arm].iter().map(|a| a[i]).collect::<Vec<f64>>();
        let chance = 1.0 / NAMES as f64;
        // Three standard deviations of guessing over the tests.
        let guess = chance + 3.0 * (chance * (1.0 - chance) / self.tests as f64).sqrt();
        let range = |x: &[f64]| format!("{:.3} ({:.3} to {:.3})", mean(x), lowest(x), highest(x));
        let solves = |arm: usize, name: &str| {
            let x = column(arm, 0);
            Must::new(format!("{name} answers 95 % under every seed"), lowest(&x) >= 0.95, range(&x))
        };
        let guesses = |arm: usize, i: usize, what: &str| {
            let x = column(arm, i);
            Must::new(format!("{what} answers as by guessing, one in {NAMES}"), mean(&x) <= guess, range(&x))
        };
        vec![
            solves(MAC, "`mac`"),
            solves(MAG, "`mag`, whose window is shorter than the distance,"),
            guesses(WINDOW, 0, "window attention alone"),
            guesses(MAC, 2, "`mac` whose memory may not write"),
            guesses(MAG, 2, "`mag` whose memory may not write"),
        ]
    }

    fn finding(&self, m: &[Vec<Answers>]) -> Finding {
        let mut table = Table::new(&["blocks", COLUMNS[0], COLUMNS[1], COLUMNS[2]]);
        let columns = |answers: &[Answers]| [0, 1, 2].map(|i| answers.iter().map(|a| a[i]).collect::<Vec<f64>>());
        let mut rows = Vec::new();
        for (arm, answers) in self.arms.iter().zip(m) {
            let columns = columns(answers);
            table.row([Cell::from(arm.name)].into_iter().chain(columns.iter().map(|c| Cell::from(&c[..]))));
            rows.push((arm.name.to_string(), columns.to_vec()));
        }
        let figure = Figure::default().rows("Right answers", Scale::linear("share"), &COLUMNS, rows);
        let caption = format!(
            "{} seeds; by guessing {:.3}. Models of {} to {} parameters. A frozen memory is read but never written \
             (`Access::Frozen`): it then holds what it was trained to start from; attention has none. Eight segments were \
             never seen in training.",
            self.seeds,
            1.0 / NAMES as f64,
            self.sizes[0],
            self.sizes[1]
        );
        Finding { table, musts: self.musts(m), caption, figure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_has_as_many_parameters() {
        let [fewest, most] = Setup::full().of_equal_size().unwrap().sizes;
        assert!(fewest > 0 && most as f64 <= 1.01 * fewest as f64, "{fewest} {most}");
    }

    #[test]
    fn every_must_can_fail() {
        let setup = Setup::full();
        let good = |i| if i == WINDOW { [0.12; 3] } else { [1.0, 1.0, 0.12] };
        let all = |of: &dyn Fn(usize) -> Answers| (0..3).map(|i| vec![of(i); 2]).collect::<Vec<_>>();
        assert!(setup.musts(&all(&good)).iter().all(|m| m.holds));
        assert!(setup.musts(&all(&|_| [0.9; 3])).iter().all(|m| !m.holds));
    }

    #[test]
    fn a_pair_stands_in_the_first_segment_and_its_key_at_the_end() {
        let (setup, mut draw) = (Setup::full(), rng("needle", 1));
        for segments in [2, 5] {
            let Example { tokens, targets } = setup.example(&mut draw, segments);
            let key = tokens[tokens.len() - 1];
            let at = tokens.iter().position(|&t| t == key).unwrap();
            assert!(tokens.len() == 16 * segments && at < 15 && tokens[at + 1] == targets[targets.len() - 1]);
            assert_eq!(tokens.iter().filter(|&&t| (t as usize) < 2 * NAMES).count(), 3);
        }
    }

    /// Segments of four tokens, learned in a moment; what is found is found again.
    #[test]
    fn a_short_needle_is_carried_by_a_memory_and_not_by_a_window() {
        let mut setup = Setup { segment: 4, width: 16, steps: 300, tests: 64, seeds: 1, ..Setup::full() };
        let memory = json!({"rule": "titans", "heads": 1});
        let window = json!({"heads": 1, "window": 4});
        let mac = json!({"type": "mac", "segment": 4, "persistent": 1, "attention": {"heads": 1}, "memory": memory});
        let blocks = [
            json!([{"mixer": mac}]),
            json!([{"mixer": {"type": "mag", "attention": window, "memory": memory}}]),
            json!([{"mixer": {"type": "attention", "heads": 1, "window": 4}}]),
        ];
        setup.arms.iter_mut().zip(blocks).for_each(|(arm, blocks)| arm.blocks = blocks);
        let found = setup.measure().unwrap();
        assert!(found[MAG][0][0] > found[WINDOW][0][0] + 0.3, "{found:?}");
        assert_eq!(found, setup.measure().unwrap());
    }
}
