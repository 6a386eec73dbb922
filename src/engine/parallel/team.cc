#include "engine/parallel/team.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <numeric>
#include <optional>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>

#include "engine/forward/module.h"
#include "engine/nccl/nccl.h"

namespace weighbridge::engine {
namespace {

using at::Tensor;
using nlohmann::json;

// A follower waits while the leader computes. A lost rank is noticed by its closed connection.
constexpr std::chrono::hours kPatience{24};
constexpr std::chrono::seconds kMeeting{300};
constexpr int kTag = 1;

std::unique_ptr<Team> current;
c10::intrusive_ptr<c10d::TCPStore> listening;

c10::intrusive_ptr<c10d::ProcessGroupGloo::Options> GlooOptions(bool local) {
  auto options = c10d::ProcessGroupGloo::Options::create(kPatience);
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  options->devices.push_back(interface != nullptr && *interface != '\0'
                                 ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                             : local ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                                     : c10d::ProcessGroupGloo::createDefaultDevice());
  return options;
}

Tensor BytesOf(const std::string& text) {
  Tensor bytes = at::empty({static_cast<int64_t>(text.size())}, at::TensorOptions(at::kByte));
  std::memcpy(bytes.mutable_data_ptr<uint8_t>(), text.data(), text.size());
  return bytes;
}

std::string BesideThisLibrary(const std::string& name) {
  Dl_info info{};
  static const char here = 0;
  if (::dladdr(&here, &info) == 0) return name;
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1) + name;
}

// The maker of NCCL's groups is a library of its own: only it needs libtorch_cuda.
MakeNcclBackend NcclMaker() {
  const std::string library = BesideThisLibrary(WB_NCCL_LIBRARY);
  void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* entry = handle == nullptr ? nullptr : ::dlsym(handle, WB_NCCL_ENTRY);
  if (entry == nullptr) {
    const char* why = ::dlerror();
    throw Unsupported("NCCL: " + std::string(why == nullptr ? library : why));
  }
  return reinterpret_cast<NcclEntry>(entry)();
}

}  // namespace

struct Team::Links {
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::Backend> world;  // for messages
};

Team::~Team() = default;

int64_t TeamShape::width() const { return std::lcm(tp, ep * etp); }

int64_t Team::Listen() {
  c10d::TCPStoreOptions options;
  options.port = 0;
  options.isServer = true;
  options.waitWorkers = false;
  options.timeout = kMeeting;
  listening = c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
  return listening->getPort();
}

void Team::Join(const json& request) {
  c10::intrusive_ptr<c10d::Store> store = listening;
  if (store == nullptr) {
    c10d::TCPStoreOptions options;
    options.port = request.at("store").at(1).get<uint16_t>();
    options.waitWorkers = false;
    options.timeout = kMeeting;
    store =
        c10::make_intrusive<c10d::TCPStore>(request.at("store").at(0).get<std::string>(), options);
  }
  auto links = std::make_unique<Links>(Links{std::move(store), {}});
  current.reset(new Team(request, std::move(links)));
}

Team* Team::Current() { return current.get(); }

// NCCL's threads ask the store, which the leader has, until their groups end: it leaves last.
void Team::EndGroups() {
  constexpr const char* kEnded = "ended";
  constexpr auto kPatience = std::chrono::seconds(3);
  constexpr auto kPause = std::chrono::milliseconds(2);
  for (Group* group : {&place_.tp, &place_.ep, &place_.etp}) group->Shutdown();
  const int64_t others = shape_.size() - 1;
  int64_t ended = links_->store->add(kEnded, leads() ? 0 : 1);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (leads() && ended < others && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(kPause);
    ended = links_->store->add(kEnded, 0);
  }
}

void Team::Leave() {
  try {
    if (current != nullptr) current->EndGroups();
  } catch (const std::exception&) {
    // A lost rank was reported where it was missed.
  }
  current.reset();
  listening.reset();
}

Team::Team(const json& request, std::unique_ptr<Links> links)
    : rank_(request.at("rank")), local_(request.value("local", true)), links_(std::move(links)) {
  shape_ = {request.at("tp"), request.at("pp"), request.at("ep"), request.at("etp"),
            request.at("sequence_parallel")};
  if (request.value("device", "cpu") == "cuda") {
    device_ = at::Device(at::kCUDA, request.value("device_index", int8_t{0}));
  }
  if (request.value("nccl", false)) backend_ = "nccl";
  links_->world = c10::make_intrusive<c10d::ProcessGroupGloo>(
      c10::make_intrusive<c10d::PrefixStore>("world", links_->store), static_cast<int>(rank_),
      static_cast<int>(shape_.size()), GlooOptions(local_));
  MakeGroups();
}

Group Team::MakeGroup(const std::string& name, const std::vector<int64_t>& ranks) {
  const auto mine = std::find(ranks.begin(), ranks.end(), rank_);
  if (mine == ranks.end() || ranks.size() == 1) return {};
  const int rank = static_cast<int>(mine - ranks.begin()), size = static_cast<int>(ranks.size());
  auto store = c10::make_intrusive<c10d::PrefixStore>(name, links_->store);
  if (backend_ == "nccl") {
    static const MakeNcclBackend make = NcclMaker();
    return {make(store, rank, size, device_), false};
  }
  return {c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, GlooOptions(local_)),
          true};
}

// Each rank makes the groups that it is in.
void Team::MakeGroups() {
  const int64_t width = shape_.width(), first = rank_ / width * width, within = rank_ % width;
  const auto group = [&](const char* name, int64_t begin, int64_t step, int64_t count) {
    std::vector<int64_t> ranks;
    for (int64_t i = 0; i < count; ++i) ranks.push_back(first + begin + i * step);
    return MakeGroup(std::string(name) + "/" + std::to_string(ranks.front()), ranks);
  };
  const int64_t experts = shape_.ep * shape_.etp;
  place_.tp = group("tp", within / shape_.tp * shape_.tp, 1, shape_.tp);
  place_.etp = group("etp", within / shape_.etp * shape_.etp, 1, shape_.etp);
  place_.ep = group("ep", within / experts * experts + within % shape_.etp, shape_.etp, shape_.ep);
  place_.sequence_parallel = shape_.sequence_parallel && shape_.tp > 1;
}

void Team::Send(int64_t to, const Message& message) {
  json text = {{"text", message.text}, {"tensors", json::array()}};
  for (const Tensor& x : message.tensors) {
    text["tensors"].push_back(x.defined() ? json({{"dtype", static_cast<int>(x.scalar_type())},
                                                  {"shape", x.sizes().vec()}})
                                          : json());
  }
  const auto send = [&](const Tensor& x) {
    if (x.numel() == 0) return;
    std::vector<Tensor> one = {x.to(at::kCPU).contiguous()};
    links_->world->send(one, static_cast<int>(to), kTag)->wait();
  };
  const Tensor bytes = BytesOf(text.dump());
  send(at::full({1}, bytes.numel(), at::TensorOptions(at::kLong)));
  send(bytes);
  for (const Tensor& x : message.tensors) {
    if (x.defined()) send(x);
  }
}

Message Team::Receive(int64_t from) {
  const auto receive = [&](at::IntArrayRef shape, at::ScalarType dtype) {
    std::vector<Tensor> one = {at::empty(shape, at::TensorOptions(dtype))};
    if (one[0].numel() > 0) links_->world->recv(one, static_cast<int>(from), kTag)->wait();
    return one[0];
  };
  const int64_t length = receive({1}, at::kLong).item<int64_t>();
  const Tensor bytes = receive({length}, at::kByte);
  const uint8_t* begin = bytes.const_data_ptr<uint8_t>();
  const json text = json::parse(begin, begin + length);
  Message message{text.at("text"), {}};
  for (const json& described : text.at("tensors")) {
    message.tensors.push_back(
        described.is_null() ? Tensor()
                            : receive(described.at("shape").get<std::vector<int64_t>>(),
                                      static_cast<at::ScalarType>(described.at("dtype").get<int>()))
                                  .to(device_));
  }
  return message;
}

}  // namespace weighbridge::engine
