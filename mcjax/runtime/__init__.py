"""Everything that depends on the platform: jit, convolutions, mapping over networks, memory, meshes, processes.

All platform-dependent decisions are made here, so that models, steps and configs contain none. `make_mesh` is public;
the rest is for the other packages of mcjax. The import registers the CPU's lowering of convolutions (`convolution`,
`convolution_kinds`).
"""

from mcjax.runtime import convolution as convolution
from mcjax.runtime import convolution_kinds as convolution_kinds
from mcjax.runtime.mesh import make_mesh

__all__ = ["make_mesh"]
