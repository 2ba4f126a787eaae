//! A warm model decodes without touching the heap.

use hecate_core::AnyRule;
use hecate_core::ops::Cpu;
use hecate_model::config::{BlockConfig, MacConfig, MagConfig, MalConfig, MemoryConfig, MixerConfig};
use hecate_model::{Access, GenerationConfig, Logits, Model, ModelConfig, Sampler, Workspace};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// What threads that decode have allocated.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread decodes. The harness has a thread of its own, which allocates while it tells of a test that
    /// runs for over a minute.
    static DECODES: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if DECODES.get() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

/// Rules with a canonical kernel. The reference, which the others run, is slow and allocates.
#[test]
fn decoding_allocates_nothing_after_warm_up() {
    // Work for a pool that comes from outside of it goes through a queue of the pool's, which grows now and then.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).start_handler(|_| DECODES.set(true)).build().unwrap();
    pool.install(decode_with_every_rule);
    assert_ne!(ALLOCATIONS.load(Ordering::Relaxed), 0, "the threads that decode are not counted");
}

fn decode_with_every_rule() {
    let dims = MemoryConfig::default().dims(64);
    let fused = |rule: &AnyRule| rule.kernels(dims).iter().any(|k| k.canonical && k.available);
    for rule in AnyRule::all().into_iter().filter(fused) {
        let name = rule.name();
        let memory = MemoryConfig { rule, ..MemoryConfig::default() };
        let mag = MixerConfig::Mag(MagConfig { memory: memory.clone(), ..MagConfig::default() });
        let mal = MixerConfig::Mal(MalConfig { memory: memory.clone(), ..MalConfig::default() });
        let mac = MixerConfig::Mac(MacConfig { memory: memory.clone(), ..MacConfig::default() });
        for mixer in [mag, mal, mac, MixerConfig::Memory(memory)] {
            let blocks = vec![BlockConfig { repeat: 2, mixer, ..BlockConfig::default() }];
            let model = Model::new(&ModelConfig { width: 64, blocks, ..ModelConfig::default() }).unwrap();
            let params = model.params().init(1);
            let decoder = || {
                let (mut state, mut ws) = (model.new_state(), Workspace::default());
                let mut sampler = Sampler::new(&GenerationConfig::default()).unwrap();
                let (ops, mut token, model, params) = (Cpu::inference(), [10_u32], &model, &params);
                move |n: usize| {
                    for i in 0..n {
                        if i % 100 == 0 {
                            state.reset();
                        }
                        let logits = model
                            .forward(&ops, params, &mut state, &token, &Access::Learn, Logits::Last, &mut ws)
                            .unwrap();
                        token = [sampler.sample(logits)];
                    }
                }
            };
            // Every thread of the pool keeps buffers of its own, and one that joins in late would fill them late.
            rayon::broadcast(|_| decoder()(100));
            let mut decode = decoder();
            decode(100);
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            decode(300);
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{name} in {:?}", model.config().blocks[0]);
        }
    }
}
