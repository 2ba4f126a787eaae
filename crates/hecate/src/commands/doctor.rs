//! `hecate doctor`: what this machine offers, and whether everything works on it.

use super::print_json;
use crate::Failure;
use crate::cli::Doctor;
use hecate_core::ops::Cpu;
use hecate_core::simd::Isa;
use hecate_core::{AnyRule, Dims};
use hecate_model::{Access, Logits, Model, ModelConfig, Workspace};
use hecate_train::bench;
use hecate_train::human;
use hecate_train::machine::{Machine, ProcessMemory};
use serde::Serialize;

/// Everything that is known and measured.
#[derive(Serialize)]
struct Facts {
    machine: Machine,
    threads_in_use: usize,
    measured: bench::Machine,
    memory: Option<ProcessMemory>,
    checks: Vec<Check>,
}

/// A small trial of a part.
#[derive(Serialize)]
struct Check {
    name: String,
    ok: bool,
    detail: String,
}

pub fn run(args: &Doctor) -> Result<(), Failure> {
    let threads = rayon::current_num_threads();
    let mut checks = vec![decode_check()];
    checks.extend(Isa::ALL.iter().map(|&isa| isa_check(isa)));
    checks.push(kernel_check());
    let facts = Facts {
        machine: Machine::look_up(),
        threads_in_use: threads,
        measured: bench::Machine::measure(threads),
        memory: ProcessMemory::look_up(),
        checks,
    };
    let failed: Vec<&str> = facts.checks.iter().filter(|c| !c.ok).map(|c| c.name.as_str()).collect();
    if args.json {
        print_json(&facts)?;
    } else {
        print(&facts);
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}

fn print(facts: &Facts) {
    let m = &facts.machine;
    let known = |x: Option<u64>| x.map_or("unknown".to_string(), human::bytes);
    let rows = [
        ("hecate", format!("{} ({}, {})", m.version, m.os, m.arch)),
        ("processor", m.cpu.clone().unwrap_or_else(|| "unknown".into())),
        ("features", m.cpu_features.join(" ")),
        ("instruction sets", m.instruction_sets.join(", ")),
        ("threads", format!("{} in use, {} to be had", facts.threads_in_use, m.threads)),
        ("peak, one thread", format!("{:.1} GFLOP/s in single precision", facts.measured.peak_one_gflops)),
        ("peak, threads in use", format!("{:.1} GFLOP/s in single precision", facts.measured.peak_all_gflops)),
        ("copying memory", format!("{:.1} GB/s read and written", facts.measured.copy_gbytes)),
        ("memory", format!("{}, {} to be had", known(m.memory_bytes), known(m.available_bytes))),
    ];
    for (name, value) in rows {
        outln!("{name:<22}{value}");
    }
    for check in &facts.checks {
        outln!("{:<22}{} ({})", check.name, if check.ok { "works" } else { "FAILED" }, check.detail);
    }
}

/// Does a small model give the same bits in one call and token by token?
fn decode_check() -> Check {
    let outcome = || -> Result<bool, Failure> {
        let model = Model::new(&ModelConfig { width: 32, ..ModelConfig::default() })?;
        let params = model.params().init(1);
        let ids: Vec<u32> = (0..100).map(|i| i * 7 % 256).collect();
        let (ops, mut ws) = (Cpu::inference(), Workspace::default());
        let (mut whole, mut steps) = (model.new_state(), model.new_state());
        model.forward(&ops, &params, &mut whole, &ids, &Access::Learn, Logits::Last, &mut ws)?;
        for id in ids {
            model.forward(&ops, &params, &mut steps, &[id], &Access::Learn, Logits::Last, &mut ws)?;
        }
        Ok(whole.hash() == steps.hash())
    };
    let (ok, detail) = match outcome() {
        Ok(true) => (true, "100 tokens in one call and one by one: the same bits".into()),
        Ok(false) => (false, "one call and token by token differ".into()),
        Err(e) => (false, e.to_string()),
    };
    Check { name: "decoding".into(), ok, detail }
}

/// Is a product on this instruction set right, where the machine has it?
fn isa_check(isa: Isa) -> Check {
    use hecate_core::ops::{LinearShape, Ops};
    let name = format!("kernels, {}", isa.name());
    if !isa.is_available() {
        return Check { name, ok: true, detail: "not on this machine, skipped".into() };
    }
    let s = LinearShape { rows: 5, inner: 33, outer: 17 };
    let x: Vec<f32> = (0..s.rows * s.inner).map(|i| (i % 7) as f32 - 3.0).collect();
    let w: Vec<f32> = (0..s.inner * s.outer).map(|i| (i % 5) as f32 - 2.0).collect();
    let mut y = vec![0.0; s.rows * s.outer];
    Cpu::inference().with_isa(isa).linear_forward(s, &x, &w, &mut y);
    // Small whole numbers: every order of summation gives the exact result.
    let exact = |r: usize, c: usize| (0..s.inner).map(|k| x[r * s.inner + k] * w[k * s.outer + c]).sum::<f32>();
    let ok = (0..y.len()).all(|i| y[i] == exact(i / s.outer, i % s.outer));
    Check { name, ok, detail: if ok { "a product is exact".into() } else { "a product is wrong".into() } }
}

/// Which fused kernels run here.
fn kernel_check() -> Check {
    let d = Dims::new(64, 64);
    let all: Vec<_> = AnyRule::all().iter().flat_map(|r| r.kernels(d)).collect();
    let usable = all.iter().filter(|k| k.available).count();
    Check { name: "memory kernels".into(), ok: usable > 0, detail: format!("{usable} of {} run here", all.len()) }
}
