"""Bridges with one mistake each, made of Megatron Bridge's own: what its rules or its provider become."""
import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Wrong:
    name: str
    model: str  # a folder of tests/testdata/hf
    cause: str
    where: str  # what the cause names: a part of the rule's text, or of a parameter without a rule
    rules: Callable | None = None  # list of mappings -> list of mappings
    fields: dict = dataclasses.field(default_factory=dict)  # of the provider
    methods: dict = dataclasses.field(default_factory=dict)  # of the bridge, whatever it had before
    alike: bool = True  # import and export are wrong in the same way: a round trip does not show it


def replaced(megatron, make):
    """The rules whose Megatron pattern ends so are replaced by make(rule); None leaves one out."""

    def change(rules):
        out, hit = [], False
        for rule in rules:
            if not rule.megatron_param.endswith(megatron):
                out.append(rule)
                continue
            hit = True
            new = make(rule)
            out += [] if new is None else [new]
        assert hit, f"no rule ends in {megatron}"
        return out

    return change


def without(megatron):
    return replaced(megatron, lambda rule: None)


def of_class(name, **arguments):
    """The same names under another class."""

    def make(rule):
        from megatron.bridge.models.conversion import param_mapping
        return getattr(param_mapping, name)(rule.megatron_param, rule.hf_param, **arguments)

    return make


def with_hf(make_hf):
    return lambda rule: type(rule)(rule.megatron_param, make_hf(rule.hf_param))


def with_megatron(make_name):
    return lambda rule: type(rule)(make_name(rule.megatron_param), rule.hf_param)


def roles(*order):
    """Roles of a rule exchanged: roles("gate", "up") reads gate where up was."""

    def make(rule):
        hf = dict(rule.hf_param)
        hf[order[0]], hf[order[1]] = hf[order[1]], hf[order[0]]
        return type(rule)(rule.megatron_param, **hf)

    return make


def first(make_rule):
    return lambda rules: [make_rule(), *rules]


def broad_rule():
    from megatron.bridge.models.conversion.param_mapping import AutoMapping
    return AutoMapping("decoder.layers.*.mlp.**", "model.layers.*.mlp.**")


def exchanged(one, other):
    """Two rules read each other's Hugging Face tensors."""

    def change(rules):
        a = next(r for r in rules if r.megatron_param.endswith(one))
        b = next(r for r in rules if r.megatron_param.endswith(other))
        new = {id(a): type(a)(a.megatron_param, b.hf_param), id(b): type(b)(b.megatron_param, a.hf_param)}
        return [new.get(id(r), r) for r in rules]

    return change


def own_roles(megatron, cls, hf):
    """A class of Megatron Bridge with other roles than it knows."""

    def make(rule):
        from megatron.bridge.models.conversion import param_mapping
        new = getattr(param_mapping, cls)(rule.megatron_param, **rule.hf_param)
        new.hf_param = hf(dict(rule.hf_param))
        return new

    return replaced(megatron, make)


def attribute(name, value):
    def make(rule):
        setattr(rule, name, value)
        return rule

    return make


def raises(rule):
    """As a mapping of one's own that forgets an argument in its resolve()."""

    class Forgets(type(rule)):
        def resolve(self, captures):
            return type(self)()

    return Forgets(rule.megatron_param, rule.hf_param)


def halved(self, hf_param, hf_state_dict):
    """A hook that scales what it loads, of one kind of tensor."""
    hf = hf_state_dict[hf_param] if isinstance(hf_param, str) else {role: hf_state_dict[name] for role, name in hf_param.items()}
    return hf / 2 if isinstance(hf_param, str) and "down_proj" in hf_param else hf


def reversed_rows(self, task, converted, hf_state_dict):
    """A hook that turns what it exports round, in the last layer alone."""
    return {name: tensor.flip(0) if "layers.3.mlp.down_proj" in name else tensor for name, tensor in converted.items()}


def one_left_out(self, task, converted, hf_state_dict):
    return {name: tensor for name, tensor in converted.items() if not name.endswith("input_layernorm.weight")}


ALL = [
    Wrong("cut over ranks by the other axis", "llama_untied", "rule-class", "self_attention.linear_proj.weight",
          replaced("self_attention.linear_proj.weight", of_class("ColumnParallelMapping"))),
    Wrong("kept whole on every rank", "qwen3", "rule-class", "mlp.linear_fc2.weight",
          replaced("decoder.layers.*.mlp.linear_fc2.weight", of_class("ReplicatedMapping"))),
    Wrong("transposed", "llama_untied", "rule-class", "mlp.linear_fc2.weight",
          replaced("mlp.linear_fc2.weight", of_class("AutoMapping", permute_dims=(1, 0)))),
    Wrong("Megatron pattern misspelt", "llama_untied", "rule-dead", "decoder.layer.*.mlp.linear_fc2.weight",
          replaced("mlp.linear_fc2.weight", with_megatron(lambda name: name.replace("layers", "layer")))),
    Wrong("wildcard of experts forgotten", "deepseek_v3_nomtp", "rule-dead", "mlp.experts.linear_fc2.weight)",
          replaced("decoder.layers.*.mlp.experts.linear_fc2.weight*", lambda rule: type(rule)(
              "decoder.layers.*.mlp.experts.linear_fc2.weight", rule.hf_param.replace("experts.*", "experts.0")))),
    Wrong("another projection read", "llama_untied", "rule-hf-name", "mlp.linear_fc2.weight",
          replaced("mlp.linear_fc2.weight", with_hf(lambda hf: hf.replace("down_proj", "up_proj")))),
    Wrong("gate and up exchanged", "llama_untied", "rule-roles", "mlp.linear_fc1.weight",
          replaced("mlp.linear_fc1.weight", roles("gate", "up"))),
    Wrong("key and value exchanged", "qwen2", "rule-roles", "linear_qkv.weight",
          replaced("linear_qkv.weight", roles("k", "v"))),
    Wrong("no rule for the biases of attention", "qwen2", "rule-missing", "linear_qkv.bias", without("linear_qkv.bias"),
          alike=False),
    Wrong("norm weights not shifted by one", "qwen3_next", "rule-class", "out_norm.weight",
          replaced("out_norm.weight", of_class("AutoMapping"))),
    Wrong("the output layer forgotten", "llama_untied", "rule-missing", "output_layer.weight", without("output_layer.weight"),
          alike=False),
    Wrong("a broad rule before the narrow ones", "llama_untied", "rule-shadowed", "decoder.layers.*.mlp.**", first(broad_rule),
          alike=False),
    Wrong("the two norms of a layer exchanged", "llama_untied", "rule-hf-name", "linear_qkv.layer_norm_weight",
          exchanged("linear_qkv.layer_norm_weight", "linear_fc1.layer_norm_weight")),
    Wrong("the norms of query and key exchanged", "qwen3", "rule-hf-name", "q_layernorm.weight",
          exchanged("decoder.layers.*.self_attention.q_layernorm.weight", "decoder.layers.*.self_attention.k_layernorm.weight")),
    Wrong("no rule for the shared expert", "deepseek_v3_nomtp", "rule-missing", "shared_experts.linear_fc2.weight",
          without("decoder.layers.*.mlp.shared_experts.linear_fc2.weight"), alike=False),
    Wrong("epsilon of the norms not taken over", "qwen3", "norm-eps", "decoder", fields={"layernorm_epsilon": 1e-5}),
    Wrong("base of the rotation not taken over", "llama_untied", "rope-base", "decoder", fields={"rotary_base": 12345}),
    Wrong("softmax instead of sigmoid", "deepseek_v3_nomtp", "router-formula", "decoder",
          fields={"moe_router_score_function": "softmax"}),
    Wrong("half of the experts per token", "qwen3_moe", "router-formula", "decoder", fields={"moe_router_topk": 1}),
    Wrong("a hook halves what is loaded", "llama_untied", "rule-hook", "mlp.linear_fc2.weight", alike=False,
          methods={"maybe_modify_loaded_hf_weight": halved}),
    Wrong("a hook turns one layer round on export", "llama_untied", "rule-hook", "mlp.linear_fc2.weight", alike=False,
          methods={"maybe_modify_converted_hf_weight": reversed_rows}),
    Wrong("a hook leaves norms out on export", "qwen3", "rule-hook", "linear_qkv.layer_norm_weight", alike=False,
          methods={"maybe_modify_converted_hf_weight": one_left_out}),
    Wrong("the parts of a mixer cut as one", "nemotron_h", "rule-class", "mixer.in_proj.weight",
          replaced("decoder.layers.*.mixer.in_proj.weight", of_class("AutoMapping"))),
    Wrong("the parts of a convolution cut as one", "qwen3_next", "rule-class", "conv1d.weight",
          replaced("decoder.layers.*.self_attention.conv1d.weight", of_class("AutoMapping"))),
    Wrong("one part cut as several", "qwen3_next", "rule-class", "self_attention.linear_proj.weight",
          replaced("decoder.layers.*.self_attention.linear_proj.weight", of_class("MambaInProjMapping"))),
    Wrong("a role that the class has not", "llama_untied", "rule-roles", "linear_qkv.weight", alike=False,
          rules=own_roles("linear_qkv.weight", "QKVMapping", lambda hf: {"q": hf["q"], "k": hf["k"], "w": hf["v"]})),
    Wrong("gate and down instead of gate and up", "llama_untied", "rule-roles", "mlp.linear_fc1.weight", alike=False,
          rules=own_roles("mlp.linear_fc1.weight", "GatedMLPMapping", lambda hf: {"gate": hf["gate"], "down": hf["up"]})),
    Wrong("the vocabulary transposed", "llama_untied", "rule-class", "output_layer.weight",
          replaced("output_layer.weight", of_class("AutoMapping", permute_dims=(1, 0)))),
    Wrong("a norm transposed", "llama_untied", "rule-class", "final_layernorm.weight",
          replaced("final_layernorm.weight", of_class("AutoMapping", permute_dims=(1, 0))), alike=False),
    Wrong("experts transposed on export alone", "gpt_oss_ns", "rule-class", "mlp.experts.linear_fc2.weight*", alike=False,
          rules=replaced("mlp.experts.linear_fc2.weight*", attribute("transpose_on_export", True))),
    Wrong("experts not gathered on export", "gpt_oss_ns", "rule-class", "mlp.experts.linear_fc2.weight*", alike=False,
          rules=replaced("mlp.experts.linear_fc2.weight*", attribute("is_grouped_export", False))),
    Wrong("experts not transposed", "gpt_oss_ns", "rule-class", "mlp.experts.linear_fc2.weight*", alike=False,
          rules=replaced("mlp.experts.linear_fc2.weight*", of_class("FusedExpertMapping"))),
    Wrong("gate and up taken for halves", "gpt_oss_ns", "rule-class", "mlp.experts.linear_fc1.weight*",
          replaced("mlp.experts.linear_fc1.weight*", of_class("FusedGatedExpertMapping", transpose_on_export=True))),
    Wrong("a rule raises", "llama_untied", "rule-raises", "mlp.linear_fc2.weight", replaced("mlp.linear_fc2.weight", raises),
          alike=False),
]
