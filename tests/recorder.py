"""What a CUDA graph would do with an update, on a CPU: the operations alone are done again.

`record` runs some work once and writes down every operation on tensors, with its arguments; then it
undoes what the work did, as recording does nothing. `replay` does the operations again, on the same
memory. Whatever Python decided while it was recorded stays as it was decided, as in a CUDA graph;
what needs a number back from the device cannot be recorded, there and here.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ASKING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")


class Recorder(TorchDispatchMode):
    """Operations in their order, and what they overwrote that was there before."""

    def __init__(self):
        super().__init__()
        self.operations, self.overwritten = [], []
        self._made = set()  # places in memory that the work asked for

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = operation._schema.name.removeprefix("aten::")
        if name.startswith(ASKING):
            raise RuntimeError(f"{name}: a number of the device is asked for")
        for tensor in written(operation, args, kwargs):
            if place(tensor) not in self._made:
                self.overwritten.append((tensor, tensor.detach().clone()))
        result = operation(*args, **kwargs)
        given = {place(tensor) for tensor in tensors((args, kwargs))}
        self._made |= {place(tensor) for tensor in tensors(result)} - given
        self.operations.append((operation, args, kwargs, result))  # holds its memory, too
        return result


class Record:
    """Operations, to be done again."""

    def __init__(self, operations):
        self.operations = operations

    @torch.no_grad()
    def replay(self):
        now = {}  # tensors of the recording → those of this time

        def current(value):
            return now.get(id(value), value)

        for operation, args, kwargs, result in self.operations:
            found = operation(*tree_map(current, args), **tree_map(current, kwargs))
            pairs = zip(tensors(result), tensors(found), strict=True)
            now |= {id(old): new for old, new in pairs}


def record(work):
    """Stands in for `record_on_gpu`."""
    recorder = Recorder()
    with recorder:
        work()
    with torch.no_grad():
        for tensor, before in reversed(recorder.overwritten):
            tensor.copy_(before)
    return Record(recorder.operations)


def written(operation, args, kwargs):
    """The arguments that an operation writes to."""
    schema = operation._schema.arguments
    given = dict(zip([each.name for each in schema], args, strict=False)) | kwargs
    writes = [each.name for each in schema if each.alias_info and each.alias_info.is_write]
    return tensors([given.get(name) for name in writes])


def tensors(values):
    """All tensors in nested values."""
    return [each for each in tree_leaves(values) if isinstance(each, torch.Tensor)]


def place(tensor):
    """Where its memory begins; views have that of what they show."""
    return tensor.untyped_storage().data_ptr()
