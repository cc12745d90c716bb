"""Where ComfyUI keeps files. A test moves `base_path`."""

import os

base_path = os.path.join(os.sep, "comfyui")
models_dir = os.path.join(base_path, "models")
folder_names_and_paths = {"checkpoints": ([os.path.join(models_dir, "checkpoints")], {".safetensors"})}


def get_folder_paths(kind):
    return folder_names_and_paths[kind][0]


def get_input_directory():
    return os.path.join(base_path, "input")


def get_output_directory():
    return os.path.join(base_path, "output")


def get_temp_directory():
    return os.path.join(base_path, "temp")


def get_user_directory():
    return os.path.join(base_path, "user")
