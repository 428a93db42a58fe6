"""What people look at: pages, pictures and meshes made of a label map and its scan."""
