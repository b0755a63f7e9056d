//! The node's list of images, by which the scheduler prefers nodes that have what a pod needs.

use k8s_openapi::api::core::v1::ContainerImage;

use crate::runtime::Image;

/// Names that are listed of one image.
const NAMES: usize = 5;

/// At most `most` images (any number when it is negative), the largest first; of equal ones, by name, so that
/// the list is the same each time.
pub(super) fn list(mut images: Vec<Image>, most: i32) -> Vec<ContainerImage> {
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.names.cmp(&b.names)));
    images
        .into_iter()
        .take(usize::try_from(most).unwrap_or(usize::MAX))
        .map(|image| ContainerImage {
            names: Some(image.names.into_iter().take(NAMES).collect()),
            size_bytes: Some(i64::try_from(image.size_bytes).unwrap_or(i64::MAX)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_lists_are_bounded() {
        let image = |size_bytes: u64| Image {
            size_bytes,
            names: (0..9).map(|n| format!("x:{size_bytes}-{n}")).collect(),
            ..Image::default()
        };
        let listed = list((0..60).map(image).collect(), 50);
        assert_eq!(listed.len(), 50);
        assert_eq!(list((0..60).map(image).collect(), -1).len(), 60);
        assert_eq!(listed[0].size_bytes, Some(59));
        assert_eq!(listed[0].names.as_ref().unwrap().len(), 5);
    }
}
