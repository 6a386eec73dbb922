"""One run of weights_verification_table on several ranks: live_worker.py HF OUT TP PP EP. OUT gets, as JSON, what rank 0 and
rank 1 say of the right model, and of one in which one rank's tensor was changed."""
import json
import math
import os
import sys

import bridges

CHANGED = "decoder.layers.0.self_attention.linear_proj.weight"


def work(rank, world, port, folder, out, tp, pp, ep):
    bridges.need_bridge()
    import torch
    import weighbridge as wb
    kit = bridges.patched()
    kit.init_parallel(rank, world, port, tp, pp, ep)
    bridge, parts = kit.build(folder, torch.bfloat16, tp, pp, ep)
    clean = wb.weights_verification_table(bridge, parts)
    hashes = wb.rank_hashes(parts)
    changed = rank == (1 if tp > 1 else 0)
    with torch.no_grad():
        for name, parameter in parts[0].named_parameters():
            if changed and name.endswith(CHANGED):
                parameter[0, 0] += 1
    wrong = wb.weights_verification_table(bridge, parts)
    with open(os.path.join(out, f"{rank}.json"), "w") as f:
        json.dump({"clean": json.loads(clean.to_json()), "wrong": json.loads(wrong.to_json()), "held": len(hashes)}, f)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main():
    folder, out = sys.argv[1:3]
    tp, pp, ep = map(int, sys.argv[3:6])
    bridges.need_bridge()
    kit = bridges.patched()
    import torch
    world = pp * math.lcm(tp, ep)
    torch.multiprocessing.spawn(work, (world, kit.free_port(), folder, out, tp, pp, ep), nprocs=world)


if __name__ == "__main__":
    main()
