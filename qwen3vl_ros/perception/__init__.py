"""Text and depth in, geometry out. NumPy and OpenCV; knows no torch and no ROS."""
