"""Past exact: samples in cells of the sphere, near cells exactly and the rest estimated with its error."""
