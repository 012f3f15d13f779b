"""Small weight files: the same bytes each time, close to the weights, read by PyTorch as any other."""

import torch

from plgen_ddp.train.weights import write_small_weights


def test_files_are_small_and_close(tmp_path):
    torch.manual_seed(0)
    state = {
        "conv.weight": torch.randn(64, 32, 3, 3) * torch.logspace(-6, 1, 64).view(-1, 1, 1, 1),
        "norm.running_var": torch.rand(64) + 0.1,
        "norm.num_batches_tracked": torch.tensor(900),
        "nothing.weight": torch.zeros(4, 4),
    }
    write_small_weights(state, tmp_path / "a" / "small.pth")
    write_small_weights(state, tmp_path / "again.pth")
    assert (tmp_path / "a" / "small.pth").read_bytes() == (tmp_path / "again.pth").read_bytes()
    loaded = torch.load(tmp_path / "again.pth", weights_only=True)
    assert loaded["norm.num_batches_tracked"].equal(state["norm.num_batches_tracked"])
    torch.testing.assert_close(loaded["norm.running_var"].float(), state["norm.running_var"], rtol=1e-3, atol=0)
    rows, given = loaded["conv.weight"].float().flatten(1), state["conv.weight"].flatten(1)
    error = (rows - given).abs().amax(dim=1) / given.abs().amax(dim=1)
    assert error[given.abs().amax(dim=1) > 2**-14].max() <= 1 / 127
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "half.pth")
    assert (tmp_path / "again.pth").stat().st_size < 0.7 * (tmp_path / "half.pth").stat().st_size
