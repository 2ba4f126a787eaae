//! What the machine is and what the process uses: facts that can be looked up, without measuring anything.
//!
//! Linux tells all of it. Elsewhere the unknown parts are left out instead of guessed.

use hecate_core::simd::Isa;
use serde::Serialize;
use std::fs;

/// Facts about the machine and this build.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Version of the program.
    pub version: &'static str,
    /// Operating system.
    pub os: &'static str,
    /// Architecture.
    pub arch: &'static str,
    /// Name of the processor, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// The processor's features that matter here, where known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpu_features: Vec<String>,
    /// Instruction sets of this build that can run here, fastest first.
    pub instruction_sets: Vec<&'static str>,
    /// Threads that can run at once, limits of the container included.
    pub threads: usize,
    /// Physical cores, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<usize>,
    /// Memory of the machine in bytes, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Memory that could be used now, in bytes, where known: the system's estimate, or what the container's
    /// limit leaves (there cached files count as used), whichever is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_bytes: Option<u64>,
}

/// Features that kernels use now or could use.
const FEATURES: &[&str] = &[
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "neon",
    "asimd",
    "asimddp",
    "bf16",
    "sve",
    "sve2",
];

impl Machine {
    /// Looks everything up.
    pub fn look_up() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let available = kib(&meminfo, "MemAvailable");
        Self {
            version: env!("CARGO_PKG_VERSION"),
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            cpu: field(&cpuinfo, "model name").map(str::to_string),
            cpu_features: features(&cpuinfo),
            instruction_sets: Isa::ALL.iter().filter(|i| i.is_available()).map(|i| i.name()).collect(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            cores: cores(&cpuinfo),
            memory_bytes: kib(&meminfo, "MemTotal"),
            available_bytes: match (available, group_available()) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
        }
    }
}

/// Memory of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessMemory {
    /// Bytes in memory now.
    pub resident_bytes: u64,
    /// The most there were at once.
    pub peak_bytes: u64,
}

impl ProcessMemory {
    /// Looks it up; `None` where the system does not tell.
    pub fn look_up() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/status").ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        Some(Self { resident_bytes: kib(status, "VmRSS")?, peak_bytes: kib(status, "VmHWM")? })
    }
}

/// The value of the first line `key : value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut fields = text.lines().filter_map(|l| l.split_once(':'));
    fields.find(|(k, _)| k.trim() == key).map(|(_, v)| v.trim())
}

/// A field in KiB, as bytes.
fn kib(text: &str, key: &str) -> Option<u64> {
    field(text, key)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn features(cpuinfo: &str) -> Vec<String> {
    // x86 calls the line `flags`, ARM `Features`.
    let flags = field(cpuinfo, "flags").or_else(|| field(cpuinfo, "Features")).unwrap_or_default();
    let present: Vec<&str> = flags.split_whitespace().collect();
    FEATURES.iter().filter(|f| present.contains(f)).map(|f| f.to_string()).collect()
}

/// Number of different pairs of socket and core.
fn cores(cpuinfo: &str) -> Option<usize> {
    let mut seen = std::collections::BTreeSet::new();
    for processor in cpuinfo.split("\n\n") {
        if let Some(core) = field(processor, "core id") {
            seen.insert((field(processor, "physical id").unwrap_or("0").to_string(), core.to_string()));
        }
    }
    (!seen.is_empty()).then_some(seen.len())
}

/// What the control group still allows, for processes in a container with a limit of its own.
fn group_available() -> Option<u64> {
    let number = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok();
    number("memory.max")?.checked_sub(number("memory.current")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nmodel name\t: A Processor @ 2.0GHz\nphysical id\t: 0\ncore id\t\t: 3\n\
        flags\t\t: fpu avx avx2 fma avx512f avx512fake\n\nprocessor\t: 1\nmodel name\t: A Processor @ 2.0GHz\n\
        physical id\t: 0\ncore id\t\t: 3\n\nprocessor\t: 2\nphysical id\t: 1\ncore id\t\t: 3\n\n";

    #[test]
    fn a_processor_is_described_from_its_text() {
        assert_eq!(field(CPUINFO, "model name"), Some("A Processor @ 2.0GHz"));
        assert_eq!(features(CPUINFO), ["avx", "avx2", "fma", "avx512f"]);
        assert_eq!(features("Features : fp asimd bf16"), ["asimd", "bf16"]);
        assert_eq!(cores(CPUINFO), Some(2));
        assert_eq!(cores(""), None);
    }

    #[test]
    fn memory_is_read_in_bytes_and_odd_text_is_unknown() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let expected = ProcessMemory { resident_bytes: 1 << 20, peak_bytes: 2 << 20 };
        assert_eq!(ProcessMemory::parse(status), Some(expected));
        assert_eq!(ProcessMemory::parse("VmRSS: many kB"), None);
        assert_eq!(kib("MemTotal: 18446744073709551615 kB", "MemTotal"), None);
    }

    #[test]
    fn this_machine_can_run_at_least_the_portable_kernels() {
        let machine = Machine::look_up();
        assert_eq!(machine.instruction_sets.last(), Some(&"portable"));
        assert!(machine.threads >= 1);
        assert_eq!(serde_json::to_value(&machine).unwrap()["version"], env!("CARGO_PKG_VERSION"));
    }
}
