"""What a MODEL socket carries: a model that clones share, and each clone's own options."""


def create_model_options_clone(options):
    """The options with dicts and lists of their own; what these hold is shared."""
    if isinstance(options, dict):
        return {key: create_model_options_clone(value) for key, value in options.items()}
    return list(options) if isinstance(options, list) else options


class ModelPatcher:
    def __init__(self, model, load_device, offload_device):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.model_options = {"transformer_options": {}}
        self.wrappers, self.additional_models = {}, {}
        model.device = offload_device  # written onto whatever is loaded
        model.model_loaded_weight_memory = 0

    def clone(self):
        twin = type(self)(self.model, self.load_device, self.offload_device)
        twin.model_options = create_model_options_clone(self.model_options)
        twin.wrappers = create_model_options_clone(self.wrappers)
        twin.additional_models = create_model_options_clone(self.additional_models)
        return twin

    def get_model_object(self, name):
        return getattr(self.model, name)

    def set_additional_models(self, key, models):
        self.additional_models[key] = models

    def add_wrapper_with_key(self, kind, key, wrapper):
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def size(self):
        return sum(p.nbytes for p in self.model.parameters())

    def loaded_size(self):
        return self.model.model_loaded_weight_memory

    def partially_load(self, device_to, extra_memory=0):
        self.model.model_loaded_weight_memory = min(extra_memory, self.size())

    def partially_unload(self, device_to, memory_to_free=0):
        self.model.model_loaded_weight_memory -= memory_to_free
        return memory_to_free

    def pre_run(self):
        self.model.current_patcher = self

    def cleanup(self):
        self.model.current_patcher = None
