"""Makes models of other configs with transformers, converts them with Megatron Bridge on CPU and records both forward passes: run by
test_other_configs.py.

  config_worker.py ORACLES VARIANTS.json OUT      ORACLES: the folder with bridge_cpu.py and make_hf.py

VARIANTS is a list of [NAME, config class of transformers, its fields]. OUT/NAME then holds hf, meg and fwd.safetensors, in float32, and
OUT/results.json what the kit reports of each. A process of its own since it replaces parts of torch.
"""
import json
import pathlib
import sys

from import_worker import start


def make_model(kit, config, folder):
    """A random model, norms and corrections of routers too."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415
    torch.manual_seed(len(str(folder)))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    kit.randomise(model)
    model.config.dtype = torch.float32
    model.save_pretrained(folder)
    kit.save_tokenizer(folder)  # which the Bridge asks for


def main():
    oracles, variants, out = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    b = start(oracles)
    import make_hf  # noqa: PLC0415  of the kit
    import transformers  # noqa: PLC0415
    b.init_parallel()
    results = {}
    for name, config, fields in json.loads(pathlib.Path(variants).read_text(encoding="utf-8")):
        folder = out / name
        make_model(make_hf, getattr(transformers, config)(**fields), folder / "hf")
        report = b.convert(str(folder / "hf"), str(folder / "meg"), forward=str(folder / "fwd.safetensors"))
        results[name] = {key: report.get(key) for key in ("ok", "err", "tb", "fwd_err", "fwd_max_abs", "fwd_ref_absmax")}
    (out / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
