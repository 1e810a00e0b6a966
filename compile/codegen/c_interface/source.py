"""Writes the source of a model: its calls, around what all models have in common."""

from __future__ import annotations

from mobilenet_tvm.compile.codegen.c_interface.cpu_check import cpu_check
from mobilenet_tvm.compile.codegen.c_interface.header import arguments, parameters
from mobilenet_tvm.compile.codegen.c_interface.names import Names
from mobilenet_tvm.compile.codegen.c_interface.plan import Plan, Pointer
from mobilenet_tvm.runtime.metadata import Metadata
from mobilenet_tvm.targets.target import Target

_SOURCE = """\
#include "{header}"

#define MODEL(name) {p}_##name
#define CONSTANT(name) {P}_##name
#define HIDDEN __attribute__((visibility("hidden")))
#define CPU_FITS ({fits})
enum {{
  INPUTS = {inputs},
  OUTPUTS = {outputs},
  MEMORY_BYTES = {memory},
  SCRATCH_BYTES = {scratch},
  MAX_ARGUMENTS = {most},
}};

#include "runtime.c"

extern HIDDEN const unsigned char MODEL(weights)[];
{kernels}

#define CALL(name, ...)                                            \\
  do {{                                                             \\
    const void *const pointers[] = {{__VA_ARGS__}};                  \\
    const int count = sizeof pointers / sizeof *pointers;          \\
    if (call(__tvm_ffi_{p}_##name, count, pointers) != 0)          \\
      return -1;                                                   \\
  }} while (0)

static int32_t compute(unsigned char *memory, const void *const *in, void *const *out) {{
  const unsigned char *const weights = MODEL(weights);
  (void)memory, (void)weights;
{calls}
  return 0;
}}

status MODEL(run)(context *c, {parameters}) {{
  const void *const in[] = {{{ins}}};
  void *const out[] = {{{outs}}};
  return run(c, in, out);
}}
"""

#: The weights as an object file; the assembler reads the file `weights.bin` itself.
_WEIGHTS = """\
  .section .rodata.{p}_weights,"a",%progbits
  .balign {alignment}
  .globl {p}_weights
  .hidden {p}_weights
{p}_weights:
  .incbin "weights.bin"
  .section .note.GNU-stack,"",%progbits
"""


def source(names: Names, plan: Plan, metadata: Metadata, target: Target, scratch: int) -> str:
    """Return the source of a model.

    Parameters
    ----------
    names : Names
        The model's names.
    plan : Plan
        What a run does.
    metadata : Metadata
        Its inputs and outputs.
    target : Target
        The CPU.
    scratch : int
        Bytes of working memory that each thread needs.
    """
    calls = [
        f"  CALL({call.kernel}, {', '.join(map(_pointer, call.arguments))});" for call in plan.calls
    ]
    calls += [f"  memcpy({_pointer(to)}, {_pointer(of)}, {n});" for to, of, n in plan.copies]
    kernels = dict.fromkeys(call.kernel for call in plan.calls)
    return _SOURCE.format(
        header=names.header,
        p=names.prefix,
        P=names.constants,
        fits=cpu_check(target),
        inputs=len(metadata.inputs),
        outputs=len(metadata.outputs),
        memory=plan.memory_bytes,
        scratch=scratch,
        most=max(len(call.arguments) for call in plan.calls),
        kernels="\n".join(f"extern HIDDEN kernel {names.kernel(kernel)};" for kernel in kernels),
        calls="\n".join(calls),
        parameters=", ".join(parameters(metadata)),
        ins=", ".join(arguments("input", metadata.inputs)),
        outs=", ".join(arguments("output", metadata.outputs)),
    )


def weights_source(names: Names, alignment: int) -> str:
    """Return the assembly of the weights."""
    return _WEIGHTS.format(p=names.prefix, alignment=alignment)


def _pointer(pointer: Pointer) -> str:
    """Return the expression of an address; the bases are variables of `compute`."""
    return f"{pointer.base} + {pointer.offset}" if pointer.offset else pointer.base
