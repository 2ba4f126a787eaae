//! How a row of the bench is measured: verified first, then timed in turns with all others.

use super::machine::{self, Machine};
use hecate_core::ops::Cpu;
use hecate_core::simd::Isa;
use serde::Serialize;
use std::time::Instant;

/// Time since a moment.
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }
    pub(super) fn ns(&self) -> f64 {
        self.0.elapsed().as_secs_f64() * 1e9
    }
}

/// Says what is wrong with the results, if anything is.
pub(super) type Fault = Box<dyn FnMut(&Cpu) -> Option<String> + Send>;

/// One call.
pub(super) type Call = Box<dyn FnMut(&Cpu) + Send>;

/// A case with its buffers.
pub(super) struct Work {
    /// Compares a call with something slower and independent; dropped before anything is timed.
    pub fault: Fault,
    /// What is timed.
    pub call: Call,
}

/// Something to be measured. It holds no buffers before it is built, so that a list of all cases costs nothing.
pub(super) struct Case {
    pub name: String,
    /// The closed formula behind `flops`, for the reader.
    pub formula: String,
    /// Floating-point operations of one call, a multiply-add counted as two; recomputation and padding left out.
    pub flops: f64,
    /// Bytes that one call must move, where weights change as they are read; otherwise the row is about operations alone.
    pub bytes: Option<f64>,
    /// Tokens of one call, where the row is about tokens.
    pub tokens: Option<usize>,
    /// Makes the buffers.
    pub build: Box<dyn FnOnce() -> Work>,
}

/// A case whose results were right.
struct Verified {
    name: String,
    formula: String,
    flops: f64,
    bytes: Option<f64>,
    tokens: Option<usize>,
    call: Call,
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Turns: each row is timed once in every turn, and the median of the turns is reported. Rows whose calls take seconds
    /// have fewer, three at least.
    pub turns: usize,
    /// Least time of one row in one turn, in milliseconds; short calls are repeated.
    pub least_ms: f64,
    /// Threads of the second column.
    pub threads: usize,
    /// Instruction set.
    pub isa: Isa,
}

impl Default for Options {
    /// Nine turns give a median that one disturbed turn does not move; 20 ms is far above the clock's step.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { turns: 9, least_ms: 20.0, threads, isa: Isa::best() }
    }
}

/// One row on a number of threads.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Timing {
    /// Median time of a call.
    pub ns_per_call: f64,
    /// Median time of a token, where the row is about tokens.
    pub ns_per_token: Option<f64>,
    /// 10^9 operations a second.
    pub gflops: f64,
    /// Median over the turns of the share of the peak measured in the same turn.
    pub share_of_peak: f64,
}

/// One measured row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured, with its extent.
    pub name: String,
    /// The closed formula behind `flops`.
    pub formula: String,
    /// Floating-point operations of one call.
    pub flops: f64,
    /// Bytes that one call must move, where weights change as they are read.
    pub bytes: Option<f64>,
    /// What one thread can do at best then: the least of its peak and of the operations per byte times the bytes a second
    /// of a copy, in 10^9 operations a second.
    pub bound_gflops: Option<f64>,
    /// The share of it on one thread; median over the turns.
    pub share_of_bound: Option<f64>,
    /// Tokens of one call.
    pub tokens: Option<usize>,
    /// On one thread.
    pub one: Timing,
    /// On all threads.
    pub all: Timing,
}

/// Everything that one run of the bench found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// Measured rows.
    pub rows: Vec<Row>,
    /// Rows whose results were wrong and which were therefore not timed, with the reason.
    pub wrong: Vec<(String, String)>,
}

/// Verifies and measures all cases.
pub(super) fn measure(cases: Vec<Case>, options: Options) -> Report {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build().expect("threads can be started");
    let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread can be started");
    let cpu = [false, true].map(|parallel| Cpu::training().with_isa(options.isa).with_parallel(parallel));
    let (mut verified, mut wrong) = (Vec::new(), Vec::new());
    for Case { name, formula, flops, bytes, tokens, build } in cases {
        let Work { mut fault, call } = build();
        match pool.install(|| cpu.iter().find_map(&mut fault)) {
            None => verified.push(Verified { name, formula, flops, bytes, tokens, call }),
            Some(reason) => wrong.push((name, reason)),
        }
    }
    let pools = [&single, &pool];
    let plans: Vec<[Plan; 2]> =
        verified.iter_mut().map(|case| [0, 1].map(|i| plan(&pools, &cpu, i, case, options))).collect();
    let (from, mut to) = (vec![1.0_f32; 1 << 24], vec![0.0_f32; 1 << 24]);
    machine::copy(&from, &mut to); // the first one is about getting pages
    let (mut peaks, mut copies) = ([Vec::new(), Vec::new()], Vec::new());
    let mut times = vec![[Vec::new(), Vec::new()]; verified.len()];
    for turn in 0..options.turns.max(1) {
        peaks[0].push(single.install(|| machine::peak_one(options.isa)));
        peaks[1].push(machine::peak_all(options.isa, &pool));
        copies.push(median(&std::array::from_fn::<f64, 3, _>(|_| machine::copy(&from, &mut to))));
        for ((case, plans), times) in verified.iter_mut().zip(&plans).zip(&mut times) {
            for i in (0..2).filter(|&i| turn < plans[i].turns) {
                times[i].push(time(&pools, &cpu, i, case, plans[i].calls));
            }
        }
    }
    let machine = Machine {
        isa: options.isa.name(),
        threads: options.threads,
        peak_one_gflops: median(&peaks[0]),
        peak_all_gflops: median(&peaks[1]),
        copy_gbytes: median(&copies),
    };
    let rows = verified.into_iter().zip(&times).map(|(case, times)| row(case, times, &peaks, &copies)).collect();
    Report { machine, rows, wrong }
}

/// Time after which a row has had enough turns, in nanoseconds, and how many it has at least.
const ENOUGH_NS: f64 = 10e9;
const LEAST_TURNS: usize = 3;

/// How a row is timed on a number of threads.
#[derive(Clone, Copy)]
struct Plan {
    /// Calls of a turn.
    calls: usize,
    turns: usize,
}

/// Made from calls that also warm up the caches and the threads' scratch; of a row whose calls take seconds, from one.
fn plan(pools: &[&rayon::ThreadPool; 2], cpu: &[Cpu; 2], i: usize, case: &mut Verified, options: Options) -> Plan {
    let first = time(pools, cpu, i, case, 1);
    let ns = if first > ENOUGH_NS / 10.0 { first } else { time(pools, cpu, i, case, 1) };
    let calls = (options.least_ms * 1e6 / ns).ceil().clamp(1.0, 1e6) as usize;
    let most = (ENOUGH_NS / (ns * calls as f64)) as usize;
    Plan { calls, turns: most.max(LEAST_TURNS).min(options.turns.max(1)) }
}

/// Nanoseconds of a call, over `calls` calls.
fn time(pools: &[&rayon::ThreadPool; 2], cpu: &[Cpu; 2], i: usize, case: &mut Verified, calls: usize) -> f64 {
    pools[i].install(|| {
        let clock = Clock::start();
        for _ in 0..calls {
            (case.call)(&cpu[i]);
        }
        clock.ns() / calls as f64
    })
}

fn row(case: Verified, times: &[Vec<f64>; 2], peaks: &[Vec<f64>; 2], copies: &[f64]) -> Row {
    let [one, all] = [0, 1].map(|i| {
        let ns_per_call = median(&times[i]);
        let shares: Vec<f64> = times[i].iter().zip(&peaks[i]).map(|(ns, peak)| case.flops / ns / peak).collect();
        Timing {
            ns_per_call,
            ns_per_token: case.tokens.map(|tokens| ns_per_call / tokens as f64),
            gflops: case.flops / ns_per_call,
            share_of_peak: median(&shares),
        }
    });
    let bounds: Option<Vec<f64>> = case.bytes.map(|bytes| {
        let bound = |(peak, copy): (&f64, &f64)| peak.min(case.flops / bytes * copy);
        peaks[0].iter().zip(copies).map(bound).collect()
    });
    let shares = |bounds: &Vec<f64>| {
        let shares: Vec<f64> = times[0].iter().zip(bounds).map(|(ns, bound)| case.flops / ns / bound).collect();
        median(&shares)
    };
    let (share_of_bound, bound_gflops) = (bounds.as_ref().map(shares), bounds.as_deref().map(median));
    let Verified { name, formula, flops, bytes, tokens, .. } = case;
    Row { name, formula, flops, bytes, bound_gflops, share_of_bound, tokens, one, all }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { 0.5 * (sorted[middle - 1] + sorted[middle]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, fault: Option<&str>, call: fn(&Cpu)) -> Case {
        let fault = fault.map(str::to_string);
        Case {
            name: name.to_string(),
            formula: "n".to_string(),
            flops: 1000.0,
            bytes: Some(1e9),
            tokens: Some(10),
            build: Box::new(move || Work { fault: Box::new(move |_| fault.clone()), call: Box::new(call) }),
        }
    }

    #[test]
    fn a_row_with_wrong_results_is_named_and_never_timed() {
        let options = Options { turns: 2, least_ms: 0.0, ..Options::default() };
        let cases =
            vec![case("right", None, |_| ()), case("wrong", Some("off by one"), |_| panic!("a wrong row was timed"))];
        let report = measure(cases, options);
        assert_eq!(report.wrong, [("wrong".to_string(), "off by one".to_string())]);
        let [row] = &report.rows[..] else { panic!("one row is left") };
        assert_eq!((row.name.as_str(), row.one.ns_per_token), ("right", Some(row.one.ns_per_call / 10.0)));
        // A byte for a millionth of an operation: the copy bounds, and not the peak.
        let (bound, share) = (row.bound_gflops.unwrap(), row.share_of_bound.unwrap());
        assert!(bound < 1e-3 * report.machine.peak_one_gflops && share > row.one.share_of_peak);
        assert!(report.machine.peak_one_gflops > 0.0 && report.machine.copy_gbytes > 0.0);
    }

    #[test]
    fn the_median_is_the_middle_of_odd_and_the_mean_of_the_two_middles_of_even() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
    }
}
