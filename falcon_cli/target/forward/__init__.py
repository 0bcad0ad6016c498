"""One forward of the target: by its own class, in fixed shapes, branch by branch, over two tables of angles."""
