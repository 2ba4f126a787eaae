"""Named rules that are settings of another (spec A.7 and E): name: (rule, settings)."""

MLP = {"name": "mlp", "layers": 2, "expansion": 4, "activation": "gelu", "residual": True, "norm": True}
# ATLAS normalises nothing inside the memory.
PLAIN = MLP | {"norm": False}
GATED = {"name": "gated_mlp", "expansion": 4, "activation": "gelu", "residual": True, "norm": False}
QUADRATIC = {"name": "polynomial", "degree": 2}
MUON = {"name": "muon", "polynomial": "muon", "iterations": 5, "when": "token"}
CUBE = {"name": "lp", "p": 3.0, "form": "smooth"}

PRESETS = {
    "miras": ("miras", {}),
    "retnet": ("miras", {"bias": "dot"}),
    "lightning": ("miras", {"bias": "dot"}),
    "gla": ("miras", {"bias": "dot", "gates": "key"}),
    "mamba2": ("miras", {"bias": "dot"}),
    "longhorn": ("miras", {"retention": "none", "algorithm": "implicit"}),
    "delta_product": ("miras", {"steps": 2, "gradient": "decayed"}),
    "mesa": ("miras", {"algorithm": {"name": "newton", "lambda": 1.0}}),
    "ttt_linear": ("miras", {"retention": "none", "chunk": 16}),
    "ttt_mlp": ("miras", {"structure": MLP, "retention": "none", "chunk": 16}),
    "titans_mlp": ("miras", {"structure": MLP, "algorithm": "momentum"}),
    "titans_mlp_chunk8": ("miras", {"structure": MLP, "algorithm": "momentum", "chunk": 8}),
    "moneta": ("miras", {"structure": MLP, "bias": CUBE, "retention": {"name": "lq_exact", "q": 4.0}}),
    "moneta_exact": ("miras", {"structure": MLP, "bias": CUBE, "retention": {"name": "lq_exact", "q": 4.0}}),
    "moneta_literal": ("miras", {"structure": MLP, "bias": CUBE | {"form": "tanh"},
                                 "retention": {"name": "lq_literal", "q": 4.0, "floor": 1.0}}),
    "yaad": ("miras", {"structure": MLP, "bias": "huber_switch"}),
    "memora": ("miras", {"structure": MLP, "retention": "kl"}),
    "dla": ("miras", {"structure": PLAIN, "bias": "dot"}),
    "swla": ("miras", {"bias": "dot", "window": 16}),
    "omeganet": ("miras", {"structure": PLAIN, "features": QUADRATIC, "window": 16}),
    "atlas": ("miras", {"structure": PLAIN, "features": QUADRATIC, "window": 16, "algorithm": MUON}),
    "atlas_plus": ("miras", {"structure": GATED, "features": QUADRATIC, "window": 16, "algorithm": MUON}),
    "lattice_decoding": ("lattice", {"variant": "decoding"}),
    "lattice_encoding": ("lattice", {"variant": "encoding"}),
    "lattice_similarity": ("lattice", {"variant": "similarity"}),
}
