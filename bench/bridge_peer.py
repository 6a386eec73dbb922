#!/usr/bin/env python3
"""One conversion by Megatron Bridge on CPU, for conversion_bench.py, which runs this in the oracle environment.

usage: bridge_peer.py ORACLES import HF MEGATRON
       bridge_peer.py ORACLES export HF MEGATRON OUT
       bridge_peer.py ORACLES verify HF MEGATRON

import: Hugging Face -> torch_dist; export: torch_dist -> Hugging Face; verify: torch_dist, loaded, against Hugging Face by
the Bridge's own verification table. Exit status 1 when that table holds a tensor that does not match. Prints the peak
resident memory in MiB.
"""
import resource
import sys


def main():
    oracles, what, hf, megatron, *out = sys.argv[1:]
    sys.path.insert(0, oracles)
    import bridge_cpu
    import torch
    bridge_cpu.patch_cuda()
    bridge_cpu.redirect_cuda_tensors()
    bridge_cpu.init_parallel()
    status = 0
    if what == "import":
        bridge, parts = bridge_cpu.build(hf, torch.bfloat16)
        bridge.save_megatron_model(parts, megatron)
    else:
        from megatron.bridge import AutoBridge
        bridge = AutoBridge.from_hf_pretrained(hf)
        parts = bridge.load_megatron_model(megatron, wrap_with_ddp=False)
        if what == "export":
            bridge.save_hf_pretrained(parts, out[0])
        else:
            from megatron.bridge.models.conversion.utils import weights_verification_table
            marks = list(weights_verification_table(bridge, parts).columns[-1].cells)
            status = 0 if marks and all(mark == "✅" for mark in marks) else 1
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    torch.distributed.destroy_process_group()
    return status


if __name__ == "__main__":
    sys.exit(main())
