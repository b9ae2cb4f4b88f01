"""Text and depth in, geometry out. NumPy, OpenCV and Open3D; knows no torch and no ROS."""
