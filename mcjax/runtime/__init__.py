"""Everything that differs between platforms: jit, convolutions, mapping over networks, memory, meshes, processes.

Models, steps and configs name no platform: they call these functions, which decide. `make_mesh` is for users.
"""

from mcjax.runtime.mesh import make_mesh

__all__ = ["make_mesh"]
