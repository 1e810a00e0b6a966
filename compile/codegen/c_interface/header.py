"""Writes the header of a model's library."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence

import numpy as np

from mobilenet_tvm.compile.codegen.c_interface.names import Names
from mobilenet_tvm.runtime.base_model import ALIGNMENT
from mobilenet_tvm.runtime.c_library import MAX_THREADS
from mobilenet_tvm.runtime.metadata import Metadata, TensorInfo

#: Types whose names in C are not NumPy's with `_t`.
_TYPES = {"float32": "float", "float64": "double", "float16": "uint16_t", "bool": "uint8_t"}
#: How values of a type are stored, where its name in C does not say.
_STORED = {"float16": ", as the bits of IEEE 754's binary16", "bool": ", 0 or 1"}

_HEADER = """\
/* {title}
 *
 * Written by mobilenet-tvm {version}, for C99 and later and for C++. Link with the library and with
 * -pthread -lm. It runs on {triple}, on CPUs with
 * {features}.
 *
 * A context runs one call at a time. Threads that run the model at the same time have a context
 * each; they share the weights, which are in the library and read-only. Between `create` and
 * `destroy` no function allocates memory.
 *
 *   {p}_context *context;
 *   {p}_status status = {p}_create(1, NULL, 0, &context);
 *   if (status == {P}_OK)
 *     status = {p}_run({arguments});
 *   if (status != {P}_OK)
 *     fprintf(stderr, "%s\\n", {p}_status_text(status));
 *   {p}_destroy(context);
 */
#ifndef {P}_H
#define {P}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

/* The first byte of every input, output and workspace is at a multiple of this many bytes, as
 * posix_memalign and alignas place it. */
#define {P}_ALIGNMENT {alignment}

/* The largest number of threads of a context. */
#define {P}_MAX_THREADS {max_threads}

{tensors}

typedef enum {p}_status {{
  {P}_OK = 0,
  {P}_NULL_POINTER = 1,    /* a pointer is null */
  {P}_UNALIGNED = 2,       /* a pointer has not the alignment above */
  {P}_BAD_THREADS = 3,     /* fewer than 1 thread, or more than the maximum above */
  {P}_SMALL_WORKSPACE = 4, /* fewer bytes than `workspace_size` returns */
  {P}_OUT_OF_MEMORY = 5,   /* the system has no memory left */
  {P}_NO_THREAD = 6,       /* the system starts no more threads */
  {P}_BAD_CPU = 7,         /* the CPU lacks a feature that the code uses */
  {P}_BUSY = 8,            /* another thread is running the context */
  {P}_NO_CONTEXT = 9,      /* the context was destroyed */
  {P}_FORKED = 10,         /* the context's threads are in a process that forked this one */
  {P}_INTERNAL = 11        /* a layer failed; please report it */
}} {p}_status;

/* What runs the model: its threads, and memory between layers. */
typedef struct {p}_context {p}_context;

/* Return the bytes of a context with so many threads: everything but the threads' stacks. Return 0
 * if there can be no such context. */
size_t {p}_workspace_size(int threads);

/* Make a context.
 *
 * threads          How many threads compute a call: the one that calls `run`, and others that the
 *                  context starts and keeps. With 1 there are no others.
 * workspace        Aligned memory for the context, until it is destroyed. NULL: the context
 *                  allocates it.
 * workspace_bytes  Its size, at least what `workspace_size` returns. Unused with NULL.
 * context          Where the context is stored; NULL after an error.
 */
{p}_status {p}_create(
    int threads,
    void *workspace,
    size_t workspace_bytes,
    {p}_context **context);

/* Run the model.
 *
 * Inputs are not changed. An output may not overlap an input or another output. After an error
 * other than INTERNAL, outputs are as they were. A call takes less than 64 KiB of the caller's
 * stack, and may change errno. The context's threads handle none of the program's signals.
 *
 * A forked process lacks the threads of its parent: it can run a context with one thread, and has
 * to make others itself.
 */
{p}_status {p}_run(
    {p}_context *context,
    {parameters});

/* End the context's threads and free what it allocated.
 *
 * Destroying NULL does nothing, nor does destroying a context that is running. A context in the
 * caller's workspace is recognised as destroyed as long as that memory is not used for anything
 * else; one that `create` allocated is not. Destroy all before unloading the library.
 */
{p}_status {p}_destroy({p}_context *context);

/* Return what a status means, in English: a constant string. */
const char *{p}_status_text({p}_status status);

#ifdef __cplusplus
}}
#endif

#endif
"""


def header(names: Names, metadata: Metadata) -> str:
    """Return the text of a model's header.

    Parameters
    ----------
    names : Names
        The model's names.
    metadata : Metadata
        Its inputs and outputs, and its target.
    """
    given = arguments("input", metadata.inputs) + arguments("output", metadata.outputs)
    call = textwrap.fill(", ".join(["context", *given]), 60)
    return _HEADER.format(
        title=_comment(f"{metadata.model} for {metadata.target['name']}"),
        version=metadata.versions["mobilenet-tvm"],
        p=names.prefix,
        P=names.constants,
        alignment=ALIGNMENT,
        max_threads=MAX_THREADS,
        tensors="\n\n".join(
            _constants(f"{kind}_{index}", names, info)
            for kind, infos in (("input", metadata.inputs), ("output", metadata.outputs))
            for index, info in enumerate(infos)
        ),
        triple=metadata.target["triple"],
        features="\n * ".join(textwrap.wrap(", ".join(metadata.required_features), 96)),
        arguments=call.replace("\n", "\n *         "),
        parameters=",\n    ".join(parameters(metadata)),
    )


def parameters(metadata: Metadata) -> list[str]:
    """Return the parameters of `run` after the context."""
    inputs = [f"const {_type(info)} *input_{i}" for i, info in enumerate(metadata.inputs)]
    outputs = [f"{_type(info)} *output_{i}" for i, info in enumerate(metadata.outputs)]
    return inputs + outputs


def arguments(kind: str, tensors: Sequence[TensorInfo]) -> list[str]:
    """Return the names of the parameters for inputs or outputs."""
    return [f"{kind}_{index}" for index in range(len(tensors))]


def _constants(argument: str, names: Names, info: TensorInfo) -> str:
    """Return the constants that describe an input or an output."""
    elements = math.prod(info.shape)
    name = f"{names.constants}_{argument.upper()}"
    shape = f"#define {name}_SHAPE {{{', '.join(map(str, info.shape))}}}\n" if info.shape else ""
    return (
        f"/* {argument}: {_comment(str(info))}{_STORED.get(info.dtype, '')}. */\n"
        f"#define {name}_RANK {len(info.shape)}\n"
        f"{shape}"
        f"#define {name}_ELEMENTS {elements}\n"
        f"#define {name}_BYTES {elements * np.dtype(info.dtype).itemsize}"
    )


def _type(info: TensorInfo) -> str:
    return _TYPES.get(info.dtype, f"{info.dtype}_t")


def _comment(text: str) -> str:
    """Return a text without what could end a comment, or be no ASCII."""
    return re.sub(r"[^ -~]|[*\\](?=/)|/(?=\*)|\\$", "?", text)
