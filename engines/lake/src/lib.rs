//! x
/// x
pub async fn open(
    _url: &url::Url,
    _cpu: strait_common::cpu::CpuPool,
) -> strait_common::Result<strait_common::engine::Store> {
    std::future::ready(()).await;
    Err(strait_common::Error::internal("x"))
}
