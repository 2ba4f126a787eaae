"""Named rules that are settings of another (spec A.7 and E): name: (rule, settings)."""

MLP = {"name": "mlp", "layers": 2, "expansion": 4, "activation": "gelu", "residual": True, "norm": True}
GATED = {"name": "gated_mlp", "expansion": 4, "activation": "gelu", "residual": True, "norm": True}
QUADRATIC = {"name": "polynomial", "degree": 2}
MUON = {"name": "muon", "polynomial": "muon", "iterations": 5, "when": "token"}
CUBE = {"name": "lp", "p": 3.0, "form": "smooth"}

# Chunks of 64 for what is products of matrices, of 16 where every token forms a state (spec 0.5).
DEEP = {"structure": MLP, "chunk": 64}
MONETA = {"structure": MLP, "bias": CUBE, "retention": {"name": "lq_exact", "q": 4.0}}
OMEGA = DEEP | {"features": QUADRATIC, "window": 16}
ATLAS = OMEGA | {"algorithm": MUON, "chunk": 16}

PRESETS = {
    "miras": ("miras", {}),
    "retnet": ("miras", {"bias": "dot", "decay": "retnet"}),
    "lightning": ("miras", {"bias": "dot", "decay": "lightning"}),
    "gla": ("miras", {"bias": "dot", "gates": "key"}),
    "mamba2": ("miras", {"bias": "dot"}),
    "deltanet": ("miras", {"retention": "none"}),
    "longhorn": ("miras", {"retention": "none", "algorithm": "implicit"}),
    "delta_product": ("miras", {"steps": 2, "gradient": "decayed"}),
    "mesa": ("miras", {"algorithm": {"name": "newton", "lambda": 1.0}}),
    "ttt_linear": ("miras", {"retention": "none", "chunk": 64}),
    "ttt_mlp": ("miras", DEEP | {"retention": "none"}),
    "titans_mlp": ("miras", DEEP | {"algorithm": "momentum"}),
    "titans_mlp_chunk8": ("miras", DEEP | {"algorithm": "momentum", "chunk": 8}),
    "moneta": ("miras", MONETA | {"chunk": 64}),
    "moneta_exact": ("miras", MONETA),
    "moneta_literal": ("miras", MONETA | {"bias": CUBE | {"form": "tanh"},
                                          "retention": {"name": "lq_literal", "q": 4.0, "floor": 1.0}}),
    "yaad": ("miras", DEEP | {"bias": "huber_switch"}),
    "memora": ("miras", DEEP | {"retention": "kl", "chunk": 16}),
    "dla": ("miras", DEEP | {"bias": "dot"}),
    "swla": ("miras", {"bias": "dot", "window": 16}),
    "omeganet": ("miras", OMEGA),
    "atlas": ("miras", ATLAS),
    "atlas_plus": ("miras", ATLAS | {"structure": GATED}),
    "lattice_decoding": ("lattice", {"variant": "decoding"}),
    "lattice_encoding": ("lattice", {"variant": "encoding"}),
    "lattice_similarity": ("lattice", {"variant": "similarity"}),
    "self_modifying_matrix": ("self_modifying", {"structure": "matrix", "chunk": 1, "chunk_memory": 1}),
}
