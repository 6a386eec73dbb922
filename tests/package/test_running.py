"""Work runs without the GIL and ends at Ctrl-C."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import weighbridge as wb

# A Llama of holes, 60 GB: seconds of work on any machine, and no memory.
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
          "num_hidden_layers": 32, "num_attention_heads": 64, "num_key_value_heads": 64, "vocab_size": 32000,
          "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
          "max_position_embeddings": 4096, "hidden_act": "silu", "head_dim": 128}


def make_holes(folder):
    h, f, v = 8192, 28672, 32000
    shapes = {"model.embed_tokens.weight": [v, h], "model.norm.weight": [h], "lm_head.weight": [v, h]}
    for i in range(CONFIG["num_hidden_layers"]):
        p = f"model.layers.{i}."
        shapes |= {p + "input_layernorm.weight": [h], p + "post_attention_layernorm.weight": [h]}
        shapes |= {p + f"self_attn.{n}_proj.weight": [h, h] for n in "qkvo"}
        shapes |= {p + "mlp.gate_proj.weight": [f, h], p + "mlp.up_proj.weight": [f, h], p + "mlp.down_proj.weight": [h, f]}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, size = end, 2
        for n in shape:
            size *= n
        end = begin + size
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(CONFIG))


def test_ctrl_c_is_a_keyboard_interrupt_and_the_interpreter_goes_on(tmp_path):
    make_holes(tmp_path)
    code = f"""
import json, signal, time, weighbridge
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
print("ready", flush=True)
try:
    weighbridge.roundtrip({str(tmp_path)!r}, tp=2)
    print("it ended by itself", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(weighbridge.roundtrip({str(tmp_path)!r}, level="L0").verdict, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    time.sleep(1)
    start = time.monotonic()
    os.kill(child.pid, signal.SIGINT)
    assert child.stdout.readline() == "interrupted\n"
    assert time.monotonic() - start < 5
    out, err = child.communicate(timeout=60)
    assert (out, err, child.returncode) == ("pass\n", "", 0)


def test_other_threads_run_while_a_command_works(tmp_path):
    make_holes(tmp_path)
    before_it = signal.signal(signal.SIGINT, signal.default_int_handler)
    counted, stop = [0], threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0.001)

    counter = threading.Thread(target=count)
    done = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    counter.start()
    done.start()
    before = counted[0]
    try:
        wb.roundtrip(tmp_path)
        raise AssertionError("it ended by itself, within a second")
    except KeyboardInterrupt:
        pass
    finally:
        stop.set()
        counter.join()
        signal.signal(signal.SIGINT, before_it)
    assert counted[0] - before > 5  # 0 where the lock is held; a busy machine counts slowly


def test_commands_run_side_by_side(model):
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(wb.roundtrip(model, tp=2))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.verdict for r in reports] == ["pass"] * 4


def test_a_call_in_one_of_several_ranks_waits_for_no_other(model, megatron, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
                        "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    assert wb.verify(model, megatron).ok and wb.manifest(model).tensors


def test_importing_needs_neither_torch_nor_megatron():
    code = "import sys, weighbridge; print([m for m in ('torch', 'megatron', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_program_is_installed_with_the_package(run):
    assert run("--version").stdout.split()[1] == wb.__version__
    assert pathlib.Path(wb.__file__).with_name("py.typed").exists()
