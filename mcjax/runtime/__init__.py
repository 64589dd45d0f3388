"""What differs between platforms: compiling, convolutions, memory, meshes, processes."""

from mcjax.runtime.mesh import make_mesh

__all__ = ["make_mesh"]
