"""Which cases every file holds: sizes, the settings that differ from the rule's own, and how inputs are drawn."""

from presets import GATED, MLP, MUON, PRESETS, QUADRATIC

# The rules of the first release, whose draws are seeded by their place here.
FIRST = ["linear_attention", "delta", "gated_delta", "decay_delta", "titans"]

# Small sizes keep the files small. Both orders of widths, so that every orientation is pinned.
SQUARE = dict(dk=4, dv=4, tokens=11)
NARROW = dict(dk=4, dv=3, tokens=11)
# Deep memories, whose rates are small.
DEEP = SQUARE | dict(rate=0.3)
DEEP_NARROW = NARROW | dict(rate=0.3)

SHALLOW = MLP | {"expansion": 2}
BARE = SHALLOW | {"residual": False, "norm": False}
THREE = SHALLOW | {"layers": 3, "activation": "silu"}
GATES = GATED | {"expansion": 2}
FREE_GATES = GATES | {"activation": "silu", "residual": False, "norm": True}


def first():
    """Each with gates inside their range and with every other gate at an end of it."""
    both = {"square": dict(dk=8, dv=8), "narrow": dict(dk=8, dv=5)}
    cases = {label: size | dict(tokens=16) for label, size in both.items()}
    return cases | {f"{label}_edges": case | dict(edges=True) for label, case in cases.items()}


def matrix(edges=True, **settings):
    """A rule with a matrix, at its own settings and with others."""
    cases = {
        "square": SQUARE,
        "narrow": NARROW,
        "wide": dict(dk=3, dv=5, tokens=11, edges=edges),
    }
    return cases | {label: NARROW | dict(settings=changes) for label, changes in settings.items()}


def slots(**settings):
    """A rule with codes, which a token without retention and rate would leave without a direction."""
    return matrix(edges="inner", **settings)


def deep(structure=SHALLOW, edges=True):
    """A rule with an MLP: at its own settings and short of its chunk, with other widths, and with chunks that do not
    divide the stream."""
    free = structure | {"residual": False}
    return {
        "square": DEEP | dict(rate=0.1),
        "narrow": DEEP_NARROW | dict(settings={"structure": free, "chunk": 1}),
        "edges": DEEP | dict(settings={"structure": structure, "chunk": 1}, edges=edges),
        "chunk": DEEP | dict(settings={"structure": structure, "chunk": 4}),
    }


def window(structure, edges=True):
    """A rule with a window of 16 and an MLP over features."""
    return {
        "square": DEEP | dict(tokens=18),
        "matrix": NARROW | dict(settings={"structure": "matrix", "window": 4, "chunk": 1}),
        "edges" if edges else "short": DEEP | dict(
            settings={"structure": structure, "window": 4, "chunk": 1}, edges=edges
        ),
        "chunk": DEEP_NARROW | dict(settings={"structure": structure | {"residual": False}, "window": 3, "chunk": 4}),
    }


def named():
    """Rules that are settings of another."""
    cases = {name: matrix() for name in ["retnet", "lightning", "gla", "mamba2", "deltanet"]}
    cases |= {
        "longhorn": matrix(kept={"retention": "l2"}),
        "delta_product": matrix(three={"steps": 3}),
        "mesa": matrix(kept={"retention": "none"}, regular={"algorithm": {"name": "newton", "lambda": 2.0}}),
        "ttt_linear": {
            "square": SQUARE | dict(tokens=67, rate=0.03),
            "narrow": NARROW | dict(settings={"chunk": 4}, rate=0.5),
            "edges": NARROW | dict(settings={"chunk": 1}, edges=True),
        },
        "ttt_mlp": deep(),
        "titans_mlp": deep() | {
            "three": DEEP | dict(settings={"structure": THREE, "chunk": 1}),
            "four": DEEP_NARROW | dict(settings={"structure": BARE | {"layers": 4}, "chunk": 3}),
        },
        "titans_mlp_chunk8": deep() | {"square": DEEP | dict(tokens=19)},
        "moneta": deep(edges="inner"),
        "moneta_exact": deep(edges="inner"),
        "moneta_literal": deep(edges="inner"),
        "yaad": deep(),
        "memora": deep(edges="inner") | {"square": DEEP | dict(tokens=18)},
        "dla": deep(BARE | {"residual": True}),
        "swla": matrix(four={"window": 4}, chunk={"window": 4, "chunk": 4}) | {"square": SQUARE | dict(tokens=19)},
        "omeganet": window(BARE | {"residual": True}),
        "atlas": window(BARE | {"residual": True}),
        # A product of three tensors that have just been erased has gradients beyond comparison.
        "atlas_plus": window(GATES, edges=False),
    }
    for name in ["lattice_decoding", "lattice_encoding", "lattice_similarity"]:
        cases[name] = slots(free={"retract": False}, chunk={"chunk": 4}, free_chunk={"retract": False, "chunk": 4})
    return cases


def tnt():
    """Shards, global and local chunks that end at different tokens, none of which divides the stream."""
    short = {"structure": SHALLOW, "global_chunk": 6, "locals": [4, 2], "shard": 8}
    matrices = short | {"structure": "matrix"}
    ways = {name: matrices | {"projection": name} for name in ["shard", "shard_raw", "chunk", "orth", "none"]}
    cases = {name: NARROW | dict(settings=settings, rate=0.2) for name, settings in ways.items()}
    return cases | {
        "square": DEEP | dict(rate=0.05),
        "short": DEEP | dict(settings=short),
        "edges": DEEP | dict(settings=short | {"retain": True}, edges=True),
        "shared": NARROW | dict(settings=matrices | {"shared_rate": True, "shared_start": True}, rate=0.2),
        "single": NARROW | dict(settings=matrices | {"locals": [1], "retain": True, "bias": "dot"}, rate=0.2),
        "three": NARROW | dict(settings=matrices | {"locals": [1, 2, 4], "projection": "chunk"}, rate=0.2),
    }


SELF = {"name": "mlp", "layers": 2, "expansion": 2, "activation": "silu", "residual": True, "norm": True}


def self_modifying(structure, **settings):
    """At its own settings, and in chunks that end apart and do not divide the stream."""
    short = {"structure": structure, "chunk": 2, "chunk_memory": 3}
    cases = {label: SQUARE | dict(settings=short | changes) for label, changes in settings.items()}
    return {"square": SQUARE | dict(tokens=18), "short": SQUARE | dict(settings=short)} | cases


def self_modifying_cases():
    both = dict(
        plain={"precond": "none"},
        dot={"bias": "dot", "chunk": 1},
        momentum={"momentum": "gate", "chunk_memory": 1, "rate_scale": "inv_sqrt"},
        constant={"momentum": {"constant": 0.6}, "rate_bias": -1.0, "retain_bias": 2.0},
        adaptive={"adaptive_q": True, "rate_scale": "none", "rate_max": 0.4},
    )
    bare = SELF | {"residual": False, "norm": False, "activation": "gelu"}
    return {
        "self_modifying": self_modifying(
            SELF, first_only={"precond": "first_only"}, three={"structure": SELF | {"layers": 3}},
            raw={"structure": bare, "targets": "raw"}, **both,
        ),
        "self_modifying_matrix": self_modifying("matrix", raw={"targets": "raw", "chunk": 4}, **both),
    }


def own():
    """Rules of their own."""
    few = {"slots": 5}
    return {
        "paced": matrix(titans={"rule": "titans", "period": 3}, delta={"rule": "delta", "period": 5}),
        "surprise_gated": matrix(
            titans={"rule": "titans", "threshold": 1.6}, loss={"rule": "delta", "signal": "loss", "threshold": 1.5},
            chunk={"rule": {"name": "lattice", "chunk": 3}, "threshold": 0.6},
            chunk_loss={"rule": {"name": "lattice", "chunk": 3}, "signal": "loss", "threshold": 0.8},
        ),
        "oja": matrix(),
        "hgrn2": matrix(),
        "rwkv7": matrix(),
        "lattice": slots(encoding={"variant": "encoding", "chunk": 3}),
        "trellis": slots(few=few, chunk=few | {"chunk": 4}, exact=few | {"chunk": 4, "sweeps": 3},
                         identity=few | {"write": "identity"}, unit=few | {"write": "l2_silu", "read": "l2_silu"},
                         out=few | {"read": "identity", "out": "ln_silu"}),
        "tnt": tnt(),
    } | self_modifying_cases()


# The generic rule: every value of every knob.


def with_chunk(label, case, settings):
    """The same settings without chunks, and with chunks that do not divide the stream."""
    return {label: case | dict(settings=settings), f"{label}_chunk": case | dict(settings=settings | {"chunk": 4})}


def structures():
    yield with_chunk("diagonal", SQUARE, {"structure": "diagonal"})
    yield with_chunk("mlp2", DEEP, {"structure": SHALLOW})
    yield with_chunk("mlp3", DEEP, {"structure": THREE})
    yield with_chunk("mlp_bare", DEEP_NARROW, {"structure": BARE})
    yield with_chunk("gated", DEEP, {"structure": GATES})
    yield with_chunk("gated_free", DEEP_NARROW, {"structure": FREE_GATES, "algorithm": "momentum"})


def features():
    maps = {"elu": "elu", "quadratic": QUADRATIC, "cubic": {"name": "polynomial", "degree": 3},
            "fourier": {"name": "fourier", "features": 10, "seed": 7, "scale": 1.5}}
    for name, value in maps.items():
        yield {f"features_{name}": NARROW | dict(settings={"features": value}, rate=0.3)}
        yield {f"features_{name}_mlp": DEEP | dict(settings={"features": value, "structure": SHALLOW, "chunk": 4})}


BIASES = {
    "dot": "dot", "lp3": {"name": "lp", "p": 3.0, "form": "smooth"}, "lp25": {"name": "lp", "p": 2.5, "form": "smooth"},
    "lp3_tanh": {"name": "lp", "p": 3.0, "form": "tanh"}, "l1": {"name": "l1", "form": "smooth"},
    "l1_tanh": {"name": "l1", "form": "tanh"}, "huber": "huber", "huber_norm": "huber_norm",
    "huber_switch": "huber_switch", "robust": {"name": "robust", "shift": 0.3}, "kl": "kl",
}


def biases():
    for name, value in BIASES.items():
        rate = 0.2 if name.startswith("lp") else 0.8
        yield {f"bias_{name}": NARROW | dict(settings={"bias": value}, rate=rate)}
        yield {f"bias_{name}_mlp": DEEP | dict(settings={"bias": value, "structure": SHALLOW, "chunk": 4}, rate=0.2)}


RETENTIONS = {
    "none": "none", "l2_anchor": "l2_anchor", "kl": "kl", "chi2": "chi2", "reverse_kl": "reverse_kl",
    "hellinger": "hellinger", "elastic": {"name": "elastic", "sparsity": 0.2},
    "elastic_ftrl": {"name": "elastic_ftrl", "sparsity": 0.1}, "lq_exact": {"name": "lq_exact", "q": 4.0},
    "lq_exact3": {"name": "lq_exact", "q": 3.0}, "lq_literal": {"name": "lq_literal", "q": 4.0, "floor": 1.0},
    "sigmoid": "sigmoid", "tanh": {"name": "tanh", "bound": 1.5}, "sphere": "sphere",
    "ball": {"name": "ball", "radius": 1.0},
}


def retentions():
    for name, value in RETENTIONS.items():
        yield with_chunk(f"retention_{name}", NARROW | dict(rate=0.4), {"retention": value})
    for name in ["l2_anchor", "kl", "chi2", "hellinger", "elastic", "lq_exact", "sphere", "ball"]:
        settings = {"retention": RETENTIONS[name], "structure": BARE, "algorithm": "momentum", "chunk": 3}
        yield {f"retention_{name}_mlp": DEEP_NARROW | dict(settings=settings, rate=0.1)}


def algorithms():
    yield with_chunk("momentum", NARROW | dict(rate=0.4), {"algorithm": "momentum"})
    for polynomial in ["muon", "cubic", "quintic"]:
        settings = {"algorithm": MUON | {"polynomial": polynomial, "iterations": 4}}
        yield {f"muon_{polynomial}": NARROW | dict(settings=settings)}
    late = MUON | {"when": "chunk", "iterations": 3}
    yield {"muon_late": dict(dk=3, dv=4, tokens=11, settings={"algorithm": late, "chunk": 4})}
    yield {"muon_mlp": DEEP | dict(settings={"algorithm": MUON, "structure": SHALLOW, "chunk": 4})}
    yield {"muon_diagonal": SQUARE | dict(settings={"algorithm": MUON, "structure": "diagonal"})}
    for name in ["none", "elastic_ftrl", "lq_exact", "lq_literal", "kl", "sigmoid", "tanh"]:
        settings = {"algorithm": "ftrl", "retention": RETENTIONS[name]}
        yield {f"ftrl_{name}": NARROW | dict(settings=settings, rate=0.4)}
    yield {"implicit_l2": NARROW | dict(settings={"algorithm": "implicit"}, edges=True)}
    for name in ["dot", "lp3", "lp25", "l1", "huber"]:
        yield {f"implicit_{name}": NARROW | dict(settings={"algorithm": "implicit", "bias": BIASES[name]}, rate=2.0)}
    yield {"implicit_anchor": NARROW | dict(settings={"algorithm": "implicit", "retention": "l2_anchor"})}
    implicit = {"algorithm": "implicit", "bias": "huber"}
    yield {"implicit_window": NARROW | dict(settings=implicit | {"window": 1})}
    yield {"implicit_steps": NARROW | dict(settings=implicit | {"steps": 2, "clip": 0.5})}
    yield {"implicit_channels": NARROW | dict(settings=implicit | {"gates": "value", "bias": BIASES["lp3"]})}
    yield {"implicit_features": NARROW | dict(settings={"algorithm": "implicit", "features": QUADRATIC})}
    yield {"newton": NARROW | dict(settings={"algorithm": {"name": "newton", "lambda": 2.0}}, edges=True)}
    yield {"newton_features": NARROW | dict(settings={"algorithm": "newton", "features": "elu", "retention": "none"})}


def rest():
    """Windows, several inner steps, gates per channel, and the places of gradients and reads."""
    yield with_chunk("window1", NARROW, {"window": 1})
    yield with_chunk("window4", NARROW, {"window": 4, "bias": "huber_norm"})
    yield {"window_mlp": DEEP | dict(settings={"window": 3, "structure": SHALLOW, "algorithm": "momentum", "chunk": 4})}
    yield {"window_muon": NARROW | dict(settings={"window": 3, "algorithm": MUON})}
    yield {"window_elastic": NARROW | dict(settings={"window": 3, "retention": RETENTIONS["elastic"], "chunk": 4})}
    yield {"window_steps": NARROW | dict(settings={"window": 3, "steps": 2, "chunk": 4}, rate=0.5)}
    yield {"window_chi2": NARROW | dict(settings={"window": 3, "retention": "chi2"})}
    yield with_chunk("steps2", NARROW | dict(rate=0.5), {"steps": 2})
    yield with_chunk("steps3", NARROW | dict(rate=0.3), {"steps": 3, "algorithm": "momentum", "bias": "huber"})
    yield {"steps4": SQUARE | dict(settings={"steps": 4, "gradient": "decayed"}, rate=0.5)}
    yield with_chunk("steps_elastic", NARROW | dict(rate=0.3), {"steps": 2, "retention": RETENTIONS["elastic"]})
    yield with_chunk("steps_hellinger", NARROW | dict(rate=0.2), {"steps": 2, "retention": "hellinger"})
    yield {"steps_sphere": NARROW | dict(settings={"steps": 2, "retention": "sphere"}, rate=0.3)}
    yield {"steps_mlp": DEEP | dict(settings={"steps": 2, "structure": SHALLOW}, rate=0.1)}
    yield with_chunk("value_gates", NARROW | dict(rate=0.4), {"gates": "value", "algorithm": "momentum"})
    yield {"value_gates_edges": NARROW | dict(settings={"gates": "value"}, edges=True)}
    yield {"value_gates_mlp": DEEP | dict(settings={"gates": "value", "structure": SHALLOW, "algorithm": "momentum"})}
    yield {"value_gates_gated": DEEP | dict(settings={"gates": "value", "structure": GATES, "retention": "l2_anchor"})}
    yield {"value_gates_chi2": NARROW | dict(settings={"gates": "value", "retention": "chi2", "chunk": 4}, rate=0.3)}
    yield {"value_gates_diagonal": SQUARE | dict(settings={"gates": "value", "structure": "diagonal"})}
    yield with_chunk("key_gates", NARROW, {"gates": "key"})
    yield {"key_gates_decayed": NARROW | dict(settings={"gates": "key", "gradient": "decayed", "bias": "kl"})}
    yield {"key_gates_anchor": NARROW | dict(settings={"gates": "key", "retention": "l2_anchor"}, edges=True)}
    yield {"key_gates_implicit": NARROW | dict(settings={"gates": "key", "algorithm": "implicit"})}
    yield {"decayed": NARROW | dict(settings={"gradient": "decayed"}, edges=True)}
    yield {"decayed_lq": NARROW | dict(settings={"gradient": "decayed", "retention": "lq_exact"}, rate=0.4)}
    yield {"decayed_mlp": DEEP | dict(settings={"gradient": "decayed", "structure": SHALLOW, "algorithm": "momentum"})}
    for read in ["pre", "start"]:
        yield with_chunk(f"read_{read}", NARROW | dict(rate=0.4), {"read": read, "retention": "l2"})
        yield with_chunk(f"read_{read}_kl", NARROW | dict(rate=0.4), {"read": read, "retention": "kl"})
    yield {"clip": NARROW | dict(settings={"clip": 0.7})}
    yield {"clip_mlp": DEEP | dict(settings={"clip": 1.0, "structure": SHALLOW, "bias": BIASES["lp3"], "chunk": 4})}


def generic():
    cases = {"square": SQUARE, "narrow": NARROW, "edges": NARROW | dict(edges=True)}
    for group in [structures, features, biases, retentions, algorithms, rest]:
        for some in group():
            assert not cases.keys() & some.keys()
            cases |= some
    return cases


CASES = {name: first() for name in FIRST} | {"miras": generic()} | named() | own()
assert PRESETS.keys() <= CASES.keys()
